"""Nodes that compute constants from constants."""

from __future__ import annotations

import math
from collections.abc import Sequence

import onnx_ir as ir

from qtool.folding import evaluate
from qtool.model import constant, opset
from qtool.passes.constants import lift
from qtool.passes.rewriting import Array, Editor, rewrites, static_shape
from qtool.passes.tensors import LAZY_BYTES, derived, read

GROWTH_BYTES = 1 << 20  # a larger result than this is folded only if its inputs are as large
# fmt: off
KEPT = {
    "Constant",  # lift_constants' business
    "DequantizeLinear", "QuantizeLinear",  # they are how a quantized weight is written
    "Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform",
    "RandomUniformLike",
    "If", "Loop", "Scan", "SequenceMap",
}
LAZY = {  # what weights go through, computed when read where large
    "Add", "Cast", "Concat", "Div", "Flatten", "Gather", "Identity", "MatMul", "Mul", "Neg",
    "Reshape", "Slice", "Squeeze", "Sub", "Transpose", "Unsqueeze",
}
# fmt: on


@rewrites()
def fold_constants(node: ir.Node, editor: Editor) -> bool:
    """Replace each node whose inputs are all constants by what it computes.

    Left alone: random and quantizing nodes, outputs of the graph, and nodes that make more than
    1 MB out of less, such as an Expand: they are the smaller way to write the same tensor.
    """
    tensors = [constant(value) for value in node.inputs]
    if node.op_type in KEPT or not any(tensor is not None for tensor in tensors):
        return False
    if any(t is None and v is not None for t, v in zip(tensors, node.inputs, strict=True)):
        return False
    if any(output.is_graph_output() or not output.name for output in node.outputs):
        return False
    folded = _fold(node, tensors, opset(editor.model))
    if folded is None:
        return False
    lift(node, *folded)
    return True


def _fold(
    node: ir.Node, tensors: list[ir.TensorProtocol | None], version: int
) -> list[ir.TensorProtocol] | None:
    """Return the tensors that a node computes, or None when it should stay."""
    given = [tensor for tensor in tensors if tensor is not None]
    sizes = [_nbytes(output) for output in node.outputs]
    known = [size for size in sizes if size is not None]
    if len(known) < len(sizes) or any(t.dtype == ir.DataType.STRING for t in given):
        return None
    if sum(known) > max(sum(int(tensor.nbytes) for tensor in given), GROWTH_BYTES):
        return None
    output = node.outputs[0]
    if len(known) == 1 and known[0] > LAZY_BYTES and node.op_type in LAZY:

        def compute(*arrays: Array) -> Array:
            results = evaluate(node, _spread(tensors, arrays), version)
            assert results is not None, node.op_type
            return results[0]

        assert output.dtype is not None
        return [derived(compute, *given, dtype=output.dtype, shape=static_shape(output) or ())]
    results = evaluate(node, _spread(tensors, [read(tensor) for tensor in given]), version)
    if results is None or not all(map(_fits, results, node.outputs)):
        return None
    return [ir.tensor(result) for result in results]


def _nbytes(value: ir.Value) -> int | None:
    """Return the bytes of a value of a known type and static shape."""
    shape, dtype = static_shape(value), value.dtype
    if shape is None or dtype is None or dtype == ir.DataType.STRING:
        return None
    return math.ceil(math.prod(shape) * dtype.itemsize)


def _spread(
    tensors: Sequence[ir.TensorProtocol | None], arrays: Sequence[Array]
) -> list[Array | None]:
    """Return the arrays in the places of their tensors, None where an input is left out."""
    values = iter(arrays)
    return [None if tensor is None else next(values) for tensor in tensors]


def _fits(result: Array, value: ir.Value) -> bool:
    return result.shape == static_shape(value) and (
        value.dtype is not None and result.dtype == value.dtype.numpy()
    )
