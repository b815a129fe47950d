"""A pooled convolution as the Gemm that it is: once quantized, its sums become float at once."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from qtool.model import array, attribute
from qtool.passes.linear import WEIGHT
from qtool.passes.rewriting import Editor, graph_of, rewrites

FLATTENS = ("Reshape", "Flatten", "Squeeze")


@rewrites("Conv")
def dense_head(node: ir.Node, editor: Editor) -> bool:
    """Replace Conv and Flatten by Flatten and Gemm, where each channel is a single number.

    Tensors have to have shapes. Global pooling leaves such channels, in front of the classes of
    MobileNet. The name of the Conv goes to the Gemm.
    """
    flatten, weight = _flattened(node), array(node.inputs[WEIGHT])
    if flatten is None or weight is None or attribute(node, "group", 1) != 1:
        return False
    flat = ir.node("Flatten", [node.inputs[0]], {"axis": 1})
    flat.outputs[0].name = editor.name(f"{node.outputs[0].name}_flat")
    flat.outputs[0].type = node.outputs[0].type
    flat.name = editor.name(f"{node.name}_flatten")
    matrix = np.ascontiguousarray(weight.reshape(weight.shape[:2]))
    editor.set_constant(node, WEIGHT, f"{node.name}_matrix", matrix)
    dense = ir.node("Gemm", [flat.outputs[0], *node.inputs[1:]], {"transB": 1}, name=node.name)
    editor.replace(flatten, flat, dense)
    graph_of(node).remove(node, safe=True)
    return True


def _flattened(node: ir.Node) -> ir.Node | None:
    """Return what makes (N, C) of a Conv's output (N, C, 1, 1), if it reads (N, B, 1, 1)."""
    x, y = node.inputs[0], node.outputs[0]
    if x is None or not (_single(x) and _single(y)) or y.is_graph_output() or len(y.uses()) != 1:
        return None
    reader = y.consumers()[0]
    shape = reader.outputs[0].shape
    fits = reader.op_type in FLATTENS and reader.inputs[0] is y
    if not fits or shape is None or len(shape) != 2 or y.shape is None or shape[1] != y.shape[1]:
        return None
    return reader


def _single(value: ir.Value) -> bool:
    return (
        value.shape is not None
        and len(value.shape) > 2
        and all(d == 1 for d in value.shape.dims[2:])
    )
