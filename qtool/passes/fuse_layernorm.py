"""LayerNormalization that exporters wrote out in simpler ops (opset 17)."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from qtool.model import attribute, constant
from qtool.passes.affine import affine_of, input_of
from qtool.passes.fuse_activations import needing, number, operands
from qtool.passes.linear import FLOATS
from qtool.passes.remove_identities import ints, shape_dims
from qtool.passes.rewriting import Editor, graph_of, only_reader, owned, produced, rewrites
from qtool.passes.tensors import dims, read


@rewrites("Div")
def _layernorm(node: ir.Node, editor: Editor) -> bool:
    """Make (x - mean(x)) / sqrt(mean((x - mean(x))^2) + epsilon), over the last axis, one op."""
    root = produced(node.inputs[1], "Sqrt")
    total = produced(root.inputs[0], "Add") if root is not None else None
    for square, epsilon in operands(total) if total is not None else ():
        value = number(epsilon)
        x = _centred(node.inputs[0])
        if value is None or x is None or _centred(_squared(_mean(square, x))) is not x:
            continue
        shape = shape_dims(x)
        width = shape[-1] if shape else None
        if not isinstance(width, int) or x.dtype not in FLOATS or x.dtype is None:
            return False
        ones = ir.Tensor(np.ones(width, x.dtype.numpy()), dtype=x.dtype)
        scale = editor.constant(graph_of(node), f"{node.outputs[0].name}_scale", ones)
        attributes = {"axis": -1, "epsilon": value}
        new = ir.node("LayerNormalization", [x, scale], attributes, name=node.name)
        editor.replace(node, new)
        return True
    return False


def _mean(value: ir.Value | None, x: ir.Value) -> ir.Value | None:
    """Return what value is the mean of, over the last axis of x, which stays as 1."""
    node, shape = produced(value, "ReduceMean"), shape_dims(x)
    if node is None or not attribute(node, "keepdims", 1) or not shape:
        return None
    given = attribute(node, "axes")
    axes = ints(node.inputs[1]) if len(node.inputs) > 1 else list(given) if given else None
    if axes is None or [axis % len(shape) for axis in axes] != [len(shape) - 1]:
        return None
    return node.inputs[0]


def _centred(value: ir.Value | None) -> ir.Value | None:
    """Return x of x - mean(x)."""
    node = produced(value, "Sub")
    x = node.inputs[0] if node is not None else None
    if node is None or x is None or _mean(node.inputs[1], x) is not x:
        return None
    return x


def _squared(value: ir.Value | None) -> ir.Value | None:
    """Return x of x * x or x ** 2."""
    node = produced(value, "Mul", "Pow")
    if node is None:
        return None
    if node.op_type == "Mul":
        return node.inputs[0] if node.inputs[0] is node.inputs[1] else None
    return node.inputs[0] if number(node.inputs[1]) == 2 or ints(node.inputs[1]) == [2] else None


@rewrites("Mul", "Add")
def fold_into_layernorm(node: ir.Node, editor: Editor) -> bool:
    """Fold a Mul and an Add of one number per element of the axis into scale and bias.

    k * (s x + c) + b = (k s) x + (k c + b)
    """
    x = input_of(node)
    norm = produced(x, "LayerNormalization")
    if x is None or norm is None or only_reader(x) is not node or norm.graph is not node.graph:
        return False
    scale = constant(norm.inputs[1])
    bias = constant(norm.inputs[2]) if len(norm.inputs) > 2 else None
    shape = shape_dims(norm.inputs[0])
    if scale is None or len(scale.shape) != 1 or shape is None or not _only_last(norm, len(shape)):
        return False
    if len(norm.inputs) > 2 and norm.inputs[2] is not None and bias is None:
        return False
    width = dims(scale)[0]
    affine = affine_of(node, len(shape), -1, width)
    value = norm.inputs[1]
    if affine is None or value is None or (affine.scales and not owned(value)):
        return False
    dtype = scale.dtype
    shift = affine.b + (0 if bias is None else affine.k * read(bias).astype(np.float64))
    name = node.outputs[0].name
    if affine.scales:
        scaled = ir.Tensor((read(scale) * affine.k).astype(dtype.numpy()), dtype=dtype)
        editor.set_constant(norm, 1, f"{name}_scale", scaled)
    if np.any(shift):
        shifted = ir.Tensor(shift.astype(dtype.numpy()), dtype=dtype)
        editor.set_constant(norm, 2, f"{name}_bias", shifted)
    editor.absorb(node, x)
    return True


def _only_last(norm: ir.Node, rank: int) -> bool:
    return bool(attribute(norm, "axis", -1) % rank == rank - 1) and len(norm.outputs) == 1


fuse_layernorm = needing(17, {"ReduceMean"}, _layernorm)
