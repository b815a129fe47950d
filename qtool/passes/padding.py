"""Padding said in one way: explicit pads of the op that slides a window."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from qtool.model import array, attribute, constant
from qtool.passes.remove_identities import ints, shape_dims
from qtool.passes.rewriting import Editor, graph_of, only_reader, rewrites
from qtool.passes.tensors import dims

WINDOWS = ("Conv", "AveragePool", "MaxPool")


@rewrites(*WINDOWS)
def explicit_pads(node: ir.Node, editor: Editor) -> bool:
    """Replace auto_pad by the pads that it means.

    SAME: total = (ceil(size / stride) - 1) * stride + (kernel - 1) * dilation + 1 - size, at
    least 0, half on each side; SAME_UPPER puts an odd one at the end. This needs fixed sizes,
    unless the stride is 1: then total = (kernel - 1) * dilation.
    """
    mode = attribute(node, "auto_pad", "NOTSET")
    kernel = _kernel(node)
    if mode == "NOTSET" or kernel is None or attribute(node, "ceil_mode", 0):
        return False
    pads = [0] * 2 * len(kernel)
    if mode != "VALID":
        same = _same_pads(node, kernel, upper=mode == "SAME_UPPER")
        if same is None:
            return False
        pads = same
    node.attributes.pop("auto_pad")
    node.attributes["pads"] = ir.AttrInt64s("pads", pads)
    return True


def _kernel(node: ir.Node) -> list[int] | None:
    if node.op_type != "Conv":
        return list(attribute(node, "kernel_shape"))
    weight = constant(node.inputs[1])
    shape = attribute(node, "kernel_shape") or (weight is not None and dims(weight)[2:])
    return list(shape) if shape else None


def _same_pads(node: ir.Node, kernel: list[int], *, upper: bool) -> list[int] | None:
    sizes = (shape_dims(node.inputs[0]) or [None] * (len(kernel) + 2))[2:]
    strides = attribute(node, "strides") or [1] * len(kernel)
    dilations = attribute(node, "dilations") or [1] * len(kernel)
    if not len(sizes) == len(kernel) == len(strides) == len(dilations) or min(strides) < 1:
        return None
    begins, ends = [], []
    for size, k, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True):
        window = (k - 1) * dilation + 1
        if stride == 1:
            total = window - 1
        elif isinstance(size, int):
            total = max((-(-size // stride) - 1) * stride + window - size, 0)
        else:
            return None
        begins.append(total // 2 if upper else total - total // 2)
        ends.append(total - begins[-1])
    return begins + ends


@rewrites("Pad")
def merge_pad(node: ir.Node, editor: Editor) -> bool:
    """Let the op that reads a Pad of zeros pad by itself.

    A Conv always pads with zeros. An AveragePool does if it counts them in, so it must have no
    pads of its own that it leaves out. Pads of batch and channels, and negative ones, stay.
    """
    reader = only_reader(node.outputs[0])
    if reader is None or reader.domain != "" or reader.op_type not in ("Conv", "AveragePool"):
        return False
    pads = _zero_pads(node)
    source = node.inputs[0]
    if pads is None or source is None or reader.graph is not node.graph:
        return False
    if reader.inputs[0] is not node.outputs[0] or attribute(reader, "auto_pad", "NOTSET") not in (
        "NOTSET", "VALID",
    ):  # fmt: skip
        return False
    n = len(pads) // 2 - 2
    own = list(attribute(reader, "pads") or [0] * 2 * n)
    if len(own) != 2 * n or any(pads[:2]) or any(pads[n + 2 : n + 4]) or min(pads) < 0:
        return False
    if reader.op_type == "AveragePool":
        if (any(own) and not attribute(reader, "count_include_pad", 0)) or attribute(
            reader, "ceil_mode", 0
        ):
            return False
        kernel = list(attribute(reader, "kernel_shape"))
        if len(kernel) != n or any(
            p >= k for p, k in zip(_added(own, pads, n), kernel * 2, strict=True)
        ):
            return False  # onnxruntime wants pads smaller than the kernel
        reader.attributes["count_include_pad"] = ir.AttrInt64("count_include_pad", 1)
    reader.attributes.pop("auto_pad", None)
    reader.attributes["pads"] = ir.AttrInt64s("pads", _added(own, pads, n))
    reader.replace_input_with(0, source)
    graph_of(node).remove(node, safe=True)
    return True


def _added(own: list[int], pads: list[int], n: int) -> list[int]:
    return [a + b for a, b in zip(own, pads[2 : n + 2] + pads[n + 4 :], strict=True)]


def _zero_pads(node: ir.Node) -> list[int] | None:
    """Return the pads of all axes, begins then ends, of a Pad of constant zeros."""
    pads = ints(node.inputs[1])
    value = node.inputs[2] if len(node.inputs) > 2 else None
    axes = node.inputs[3] if len(node.inputs) > 3 else None
    if pads is None or attribute(node, "mode", "constant") != "constant":
        return None
    if value is not None and not (constant(value) is not None and not np.any(array(value))):
        return None
    if axes is None:
        return pads if len(pads) > 4 else None
    shape, which = shape_dims(node.inputs[0]), ints(axes)
    if shape is None or which is None:
        return None
    rank, full = len(shape), [0] * 2 * len(shape)
    for i, axis in enumerate(which):
        full[axis % rank] = pads[i]
        full[rank + axis % rank] = pads[len(which) + i]
    return full
