"""What a model costs: its multiply-accumulates (MACs).

A multiply and the addition that follows it count as one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import onnx_ir as ir

from qtool.model import Model, all_nodes, attribute
from qtool.shapes import Shape, Shapes, size


def macs(node: ir.Node, known: Shapes) -> int | None:
    """Return the multiply-accumulates of one run of a node; None when they are unknown.

    Nodes that do not multiply-accumulate (additions, activations, data movement) count 0.
    known holds the shapes of the node's tensors, as shapes() gives them.
    """
    rule = MACS.get(node.op_type)
    if rule is None:
        return 0
    inputs = [None if v is None else known.get(v.name or "") for v in node.inputs]
    outputs = [known.get(v.name or "") for v in node.outputs]
    return rule(node, inputs, outputs)


_Known = Sequence[Shape | None]


def _product(*counts: int | None) -> int | None:
    known = [count for count in counts if count is not None]
    return math.prod(known) if len(known) == len(counts) else None


def _at(shapes_: _Known, index: int) -> Shape | None:
    return shapes_[index] if index < len(shapes_) else None


def _conv(weight: int) -> Callable[[ir.Node, _Known, _Known], int | None]:
    """One output element is a sum over C_in/groups x kernel, a filter's elements."""

    def rule(node: ir.Node, inputs: _Known, outputs: _Known) -> int | None:
        filters = _at(inputs, weight)
        return _product(size(outputs[0]), size(filters[1:]) if filters else None)

    return rule


def _conv_transpose(node: ir.Node, inputs: _Known, outputs: _Known) -> int | None:
    """Each input element is multiplied with the C_out/groups x kernel weights of its channel."""
    filters = _at(inputs, 1)
    return _product(size(_at(inputs, 0)), size(filters[1:]) if filters else None)


def _matmul(node: ir.Node, inputs: _Known, outputs: _Known) -> int | None:
    """One output element is a sum over the depth k, the last dim of the first operand."""
    x = _at(inputs, 0)
    depth = None if not x else x[-2 if attribute(node, "transA", 0) and len(x) > 1 else -1]
    return _product(size(outputs[0]), size((depth,)))


def _recurrent(node: ir.Node, inputs: _Known, outputs: _Known) -> int | None:
    """Every step of every sequence multiplies with all of W and R, whatever the layout."""
    x = _at(inputs, 0)
    w, r = size(_at(inputs, 1)), size(_at(inputs, 2))
    return _product(size(x[:2]) if x else None, None if w is None or r is None else w + r)


def _matmul_nbits(node: ir.Node, inputs: _Known, outputs: _Known) -> int | None:
    return _product(size(_at(inputs, 0)), int(attribute(node, "N", 0)))


def _unknown(node: ir.Node, inputs: _Known, outputs: _Known) -> int | None:
    return None


MACS: dict[str, Callable[[ir.Node, _Known, _Known], int | None]] = {
    "Conv": _conv(1),
    "ConvInteger": _conv(1),
    "FusedConv": _conv(1),
    "DeformConv": _conv(1),
    "QLinearConv": _conv(3),
    "ConvTranspose": _conv_transpose,
    "Gemm": _matmul,
    "FusedGemm": _matmul,
    "QGemm": _matmul,
    "MatMul": _matmul,
    "FusedMatMul": _matmul,
    "MatMulInteger": _matmul,
    "MatMulIntegerToFloat": _matmul,
    "DynamicQuantizeMatMul": _matmul,
    "QLinearMatMul": _matmul,
    "MatMulNBits": _matmul_nbits,
    "LSTM": _recurrent,
    "GRU": _recurrent,
    "RNN": _recurrent,
    "DynamicQuantizeLSTM": _recurrent,
    "Einsum": _unknown,
    "Attention": _unknown,
    "MultiHeadAttention": _unknown,
    "GroupQueryAttention": _unknown,
}


def total_macs(model: Model, known: Shapes) -> tuple[int, list[str]]:
    """Return the sum of the MACs that are known, and the names of nodes whose are not.

    Every node counts once: both branches of an If, one turn of a Loop or Scan.
    """
    total, unknown = 0, []
    for node in all_nodes(model):
        count = macs(node, known)
        if count is None:
            unknown.append(node.name or node.op_type)
        else:
            total += count
    return total, unknown
