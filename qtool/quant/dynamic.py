"""Dynamic quantization: activations are quantized at run time, by the range that they have.

    xq, x_scale, x_zp = DynamicQuantizeLinear(x)                  uint8, per tensor
    acc = MatMulInteger(xq, Wq, x_zp)                             int32, exact
    y = float(acc) * (x_scale * w_scale[n]) + bias[n]             float32

    acc[m, n] = sum_k (xq[m, k] - x_zp) * (Wq[k, n] - w_zp[n])    so that y = x W up to rounding

The scale of the weight is constant along the depth k, and so leaves the sum. A Gemm's alpha is a
part of w_scale and its beta of the bias; transposed weights are stored the way MatMulInteger
reads them. A tensor that several nodes read is quantized once.

acc cannot overflow: |xq - x_zp| <= 255, and a weight whose 255 * sum_k |Wq[k, n] - w_zp[n]| leaves
int32 stays in float. But on x86 CPUs without VNNI onnxruntime multiplies uint8 by int8 with
vpmaddubsw, which adds the products of two neighbours in k in int16 and saturates there; see
integer_weights.saturates(). uint8 weights take another kernel there, which does not.
"""

from __future__ import annotations

import logging
from collections.abc import Container, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from qtool.errors import UnsupportedError
from qtool.model import Model, add_initializer, all_nodes, array, attribute, constant
from qtool.quant import weight_only
from qtool.quant.encode import WeightScheme
from qtool.quant.integer_weights import IntegerWeights
from qtool.quant.rewrite import Chain, ShortNames
from qtool.quant.selection import node_label
from qtool.quant.weight_uses import Use, weights

log = logging.getLogger("qtool")

OP_TYPES = ("MatMul", "Gemm")  # a Conv is dynamic only when asked for


def dynamic(
    model: Model,
    selected: Container[ir.Node],
    scheme: WeightScheme | None = None,
    *,
    op_types: Sequence[str] = OP_TYPES,
) -> dict[str, str]:
    """Let the selected MatMul and Gemm nodes compute in integers, in place.

    op_types may also have Conv, which becomes a ConvInteger. The weight must be a constant
    float32 second input. What this leaves in float weight_only can still make smaller. The
    model must have opset 11 at least.

    Returns:
        For each selected node of op_types that computes in float, by node_label, why.

    Raises:
        UnsupportedError: the scheme's weights are not of 8 bits, or are cut into blocks.
    """
    scheme = scheme or WeightScheme()
    if scheme.dtype not in ("int8", "uint8") or scheme.n_block:
        raise UnsupportedError(
            f"dynamic quantization multiplies 8-bit integers: {scheme.dtype} weights, or blocks "
            "of them, need weight-only quantization"
        )
    edit = _Edit(model, scheme)
    found = {use.node: (root, uses) for root, uses in weights(model).items() for use in uses}
    reasons: dict[str, str] = {}
    for node in list(all_nodes(model)):
        if node not in selected or node.op_type not in op_types or node.domain:
            continue
        root, uses = found.get(node, (None, []))
        reason = _why_not(node, root, uses, selected, op_types)
        if reason is None and root is not None:
            reason = edit.replace(next(use for use in uses if use.node is node), root)
        if reason:
            reasons[node_label(node)] = reason
    edit.weights.drop_float()
    if edit.weights.n_saturating:
        log.info(
            "%d of %d int8 weights can saturate in onnxruntime on x86 CPUs without VNNI; "
            "uint8 weights cannot",
            edit.weights.n_saturating,
            len(edit.weights),
        )
    return reasons


def needed_opset(model: Model, scheme: WeightScheme) -> int:
    """Return the opset of dynamic's result with weight_only for what it leaves."""
    return weight_only.needed_opset(model, scheme)


def _why_not(
    node: ir.Node,
    root: ir.Value | None,
    uses: Sequence[Use],
    selected: Container[ir.Node],
    op_types: Sequence[str],
) -> str | None:
    tensor = constant(root)
    if root is None or tensor is None or constant(node.inputs[0]) is not None:
        return "it has no constant second input"
    if tensor.dtype != ir.DataType.FLOAT:
        return f"its weight {root.name!r} is {tensor.dtype.name.lower()}, not float"
    if tensor.size < weight_only.MIN_SIZE or len(tensor.shape) < 2:
        return f"its weight {root.name!r} has only {tensor.size} elements or one axis"
    if root.is_graph_output():
        return f"its weight {root.name!r} is also an output of the model"
    for use in uses:
        if not use.is_weight or use.node not in selected or use.node.op_type not in op_types:
            other = f"{node_label(use.node)} ({use.node.op_type})"
            return f"its weight {root.name!r} is also read by {other}, which has no dynamic form"
    return None


class _Edit:
    """Replaces nodes one by one and remembers what they can share."""

    def __init__(self, model: Model, scheme: WeightScheme) -> None:
        self._names = ShortNames(model.graph)
        self.weights = IntegerWeights(scheme, self._names)
        self._quantized: dict[tuple[ir.Graph, ir.Value], list[ir.Value]] = {}

    def replace(self, use: Use, root: ir.Value) -> str | None:
        """Replace a node by its integer form, or return why it has none."""
        node, weight = use.node, self.weights.get(use, root)
        if isinstance(weight, str):
            return weight
        chain = Chain(node, self._names)
        x, x_scale, x_zero = self._quantize(node)
        if attribute(node, "transA", 0):
            x = chain.add("Transpose", [x], {"perm": [1, 0]}, dtype=ir.DataType.UINT8)
        inputs = [x, weight.integers, x_zero, weight.zero_point]
        inputs = inputs[:3] if weight.zero_point is None else inputs
        is_conv, is_gemm = node.op_type == "Conv", node.op_type == "Gemm"
        attributes = {k: attr.value for k, attr in node.attributes.items()} if is_conv else {}
        op_type = "ConvInteger" if is_conv else "MatMulInteger"
        acc = chain.add(op_type, inputs, attributes, dtype=ir.DataType.INT32)
        real = chain.add("Cast", [acc], {"to": ir.DataType.FLOAT.value})
        rank = len(weight.integers.shape or ()) - 1 if is_conv else 1  # channels, then space
        alpha = attribute(node, "alpha", 1.0) if is_gemm else 1.0
        w_scale = self.weights.scale(weight, alpha, rank=rank)
        y = chain.add("Mul", [real, chain.add("Mul", [x_scale, w_scale])])
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        if bias is not None:
            along = self._over_space(chain, node, bias, rank) if is_conv else None
            chain.add("Add", [y, along or self._times_beta(chain, node, bias)])
        chain.finish()
        return None

    def _quantize(self, node: ir.Node) -> list[ir.Value]:
        """Return the node's quantized input, its scale and its zero point; made once per graph."""
        x, graph = node.inputs[0], node.graph
        assert x is not None
        assert isinstance(graph, ir.Graph)
        if (graph, x) not in self._quantized:
            types = (ir.DataType.UINT8, ir.DataType.FLOAT, ir.DataType.UINT8)
            outputs = [
                ir.Value(name=self._names.short(stem), type=ir.TensorType(dtype))
                for stem, dtype in zip(("q", "scale", "zero"), types, strict=True)
            ]
            outputs[0].shape = None if x.shape is None else x.shape.copy()
            outputs[1].shape, outputs[2].shape = ir.Shape([]), ir.Shape([])
            quantize = ir.node("DynamicQuantizeLinear", [x], outputs=outputs, name="")
            graph.insert_before(node, quantize)
            self._quantized[graph, x] = outputs
        return self._quantized[graph, x]

    def _over_space(self, chain: Chain, node: ir.Node, bias: ir.Value, rank: int) -> ir.Value:
        """Return a (C_out,) bias with an axis of size 1 for each one of space."""
        shape, values = np.array([-1] + [1] * (rank - 1), np.int64), array(bias)
        if values is not None:
            return self._constant(node, "bias", values.reshape(shape))
        return chain.add("Reshape", [bias, self._constant(node, "bias_shape", shape)])

    def _times_beta(self, chain: Chain, node: ir.Node, bias: ir.Value) -> ir.Value:
        beta = attribute(node, "beta", 1.0)
        if beta == 1.0:
            return bias
        return chain.add("Mul", [bias, self._constant(node, "beta", np.array(beta, np.float32))])

    def _constant(self, node: ir.Node, part: str, values: npt.NDArray[Any]) -> ir.Value:
        assert isinstance(node.graph, ir.Graph)
        return add_initializer(node.graph, self._names.short(part), values)
