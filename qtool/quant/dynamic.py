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
saturates(). Asymmetric or not, uint8 weights take another kernel there, which does not.
"""

from __future__ import annotations

import logging
from collections.abc import Container, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from qtool.errors import UnsupportedError
from qtool.model import Model, Names, add_initializer, all_nodes, array, attribute, constant
from qtool.quant import weight_only
from qtool.quant.encode import Encoded, WeightScheme, encode
from qtool.quant.rewrite import Chain
from qtool.quant.selection import node_label
from qtool.quant.weight_uses import Use, weights

log = logging.getLogger("qtool")

OP_TYPES = ("MatMul", "Gemm")  # a Conv is dynamic only when asked for
INT32_MAX = 2**31 - 1


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
    edit = _Dynamic(model, scheme)
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
    edit.drop_unused()
    edit.report()
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


class _Dynamic:
    """Replaces nodes one by one and remembers what they can share."""

    def __init__(self, model: Model, scheme: WeightScheme) -> None:
        self._model, self._names = model, Names(model.graph)
        self._scheme = scheme
        self._weights: dict[tuple[ir.Value, tuple[int, ...]], _Weight | str] = {}
        self._quantized: dict[tuple[ir.Graph, ir.Value], list[ir.Value]] = {}
        self._roots: dict[ir.Value, ir.Graph] = {}
        self._n_saturating = 0

    def replace(self, use: Use, root: ir.Value) -> str | None:
        """Replace a node by its integer form, or return why it has none."""
        node = use.node
        weight = self._weight(use, root)
        if isinstance(weight, str):
            return weight
        x, x_scale, x_zero = self._quantize(node)
        if node.op_type == "Conv":
            self._conv(node, weight, x, x_scale, x_zero)
        else:
            self._matmul(node, weight, x, x_scale, x_zero)
        return None

    def drop_unused(self) -> None:
        """Remove the float weights, and Transposes of them, that nothing reads any more."""
        for root, graph in self._roots.items():
            for node, _ in list(root.uses()):
                if not any(value.uses() for value in node.outputs):
                    assert node.graph is not None
                    node.graph.remove(node, safe=True)
            producer = root.producer()
            if not root.uses() and producer is not None:
                graph.remove(producer, safe=True)
            elif not root.uses():
                graph.initializers.pop(root.name or "", None)

    def report(self) -> None:
        """Say which results can differ between kinds of CPU."""
        if self._n_saturating:
            log.info(
                "%d of %d int8 weights can saturate in onnxruntime on x86 CPUs without VNNI; "
                "uint8 weights cannot",
                self._n_saturating,
                len(self._roots),
            )

    def _weight(self, use: Use, root: ir.Value) -> _Weight | str:
        """Return the integers of a weight in the order of axes that the integer op reads."""
        order = use.axes
        if use.node.op_type == "Gemm" and attribute(use.node, "transB", 0):
            order = order[::-1]
        if (root, order) not in self._weights:
            self._weights[root, order] = self._encode(use, root, order)
        return self._weights[root, order]

    def _encode(self, use: Use, root: ir.Value, order: tuple[int, ...]) -> _Weight | str:
        tensor = constant(root)
        assert tensor is not None
        shape = tensor.shape.numpy()
        encoded = encode(tensor, self._scheme, use.channel(shape), use.depth(shape))
        if encoded is None:
            return f"its weight {root.name!r} holds NaN or infinity"
        zero, is_conv = encoded.zero_point, use.node.op_type == "Conv"
        if zero is not None and zero.ndim and (zero == zero.flat[0]).all():
            zero = np.asarray(zero.flat[0])
        if zero is not None and zero.ndim and (is_conv or len(order) > 2):
            return "onnxruntime takes only one zero point here; use symmetric weights"
        integers = encoded.integers.numpy().transpose(order)
        if _overflows(integers, zero, is_conv):
            return f"sums over its weight {root.name!r} could overflow int32"
        rows = integers.reshape(len(integers), -1).T if is_conv else np.moveaxis(integers, -2, 0)
        self._n_saturating += integers.dtype == np.int8 and saturates(rows)
        return self._store(root, encoded, np.ascontiguousarray(integers), zero)

    def _store(
        self,
        root: ir.Value,
        encoded: Encoded,
        integers: npt.NDArray[Any],
        zero: npt.NDArray[Any] | None,
    ) -> _Weight:
        graph = root.graph
        assert isinstance(graph, ir.Graph)
        self._roots[root] = graph

        def add(part: str, values: npt.NDArray[Any]) -> ir.Value:
            return add_initializer(graph, self._names(f"{root.name}_{part}"), values)

        zero_point = None if zero is None else add("zero_point", zero)
        return _Weight(add("quantized", integers), encoded.scale, zero_point, {}, add)

    def _quantize(self, node: ir.Node) -> list[ir.Value]:
        """Return the node's quantized input, its scale and its zero point; made once per graph."""
        x, graph = node.inputs[0], node.graph
        assert x is not None
        assert isinstance(graph, ir.Graph)
        if (graph, x) not in self._quantized:
            types = (ir.DataType.UINT8, ir.DataType.FLOAT, ir.DataType.UINT8)
            parts = ("quantized", "scale", "zero_point")
            outputs = [
                ir.Value(name=self._names(f"{x.name}_{part}"), type=ir.TensorType(dtype))
                for part, dtype in zip(parts, types, strict=True)
            ]
            outputs[0].shape = None if x.shape is None else x.shape.copy()
            outputs[1].shape, outputs[2].shape = ir.Shape([]), ir.Shape([])
            name = self._names(f"{x.name}_DynamicQuantizeLinear")
            quantize = ir.node("DynamicQuantizeLinear", [x], outputs=outputs, name=name)
            graph.insert_before(node, quantize)
            self._quantized[graph, x] = outputs
        return self._quantized[graph, x]

    def _matmul(
        self, node: ir.Node, weight: _Weight, x: ir.Value, x_scale: ir.Value, x_zero: ir.Value
    ) -> None:
        chain = Chain(node, self._names)
        if attribute(node, "transA", 0):
            x = chain.add("Transpose", [x], {"perm": [1, 0]}, dtype=ir.DataType.UINT8)
        inputs = [x, weight.integers, x_zero, weight.zero_point]
        acc = chain.add("MatMulInteger", _trimmed(inputs), dtype=ir.DataType.INT32)
        alpha = attribute(node, "alpha", 1.0) if node.op_type == "Gemm" else 1.0
        scale = chain.add("Mul", [x_scale, weight.scaled(alpha, rank=1)])
        y = self._real(chain, acc, scale)
        bias = node.inputs[2] if node.op_type == "Gemm" and len(node.inputs) > 2 else None
        if bias is not None:
            chain.add("Add", [y, self._times_beta(chain, node, bias)])
        chain.finish()

    def _conv(
        self, node: ir.Node, weight: _Weight, x: ir.Value, x_scale: ir.Value, x_zero: ir.Value
    ) -> None:
        chain = Chain(node, self._names)
        attributes = {name: attr.value for name, attr in node.attributes.items()}
        inputs = [x, weight.integers, x_zero, weight.zero_point]
        acc = chain.add("ConvInteger", _trimmed(inputs), attributes, dtype=ir.DataType.INT32)
        rank = len(weight.integers.shape or ()) - 1  # channels, then space
        scale = chain.add("Mul", [x_scale, weight.scaled(1.0, rank=rank)])
        y = self._real(chain, acc, scale)
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        if bias is not None:
            shape = np.array([-1] + [1] * (rank - 1), np.int64)
            name = self._names(f"{node.outputs[0].name}_bias_shape")
            assert isinstance(node.graph, ir.Graph)
            values = array(bias)
            if values is None:
                bias = chain.add("Reshape", [bias, add_initializer(node.graph, name, shape)])
            else:
                bias = add_initializer(node.graph, self._names(f"{name}d"), values.reshape(shape))
            chain.add("Add", [y, bias])
        chain.finish()

    def _real(self, chain: Chain, acc: ir.Value, scale: ir.Value) -> ir.Value:
        real = chain.add("Cast", [acc], {"to": ir.DataType.FLOAT.value})
        return chain.add("Mul", [real, scale])

    def _times_beta(self, chain: Chain, node: ir.Node, bias: ir.Value) -> ir.Value:
        beta = attribute(node, "beta", 1.0)
        if beta == 1.0:
            return bias
        assert isinstance(node.graph, ir.Graph)
        name = self._names(f"{node.outputs[0].name}_beta")
        return chain.add(
            "Mul", [bias, add_initializer(node.graph, name, np.array(beta, np.float32))]
        )


class _Weight:
    """A quantized weight, and its scales in the shapes in which they were needed so far."""

    def __init__(
        self,
        integers: ir.Value,
        scale: npt.NDArray[Any],
        zero_point: ir.Value | None,
        scales: dict[tuple[float, int], ir.Value],
        add: Any,
    ) -> None:
        self.integers, self.zero_point = integers, zero_point
        self._scale, self._scales, self._add = scale, scales, add

    def scaled(self, alpha: float, *, rank: int) -> ir.Value:
        """Return alpha * scale as an initializer whose channels are the first of rank axes."""
        if (alpha, rank) not in self._scales:
            scale = (np.float32(alpha) * self._scale).astype(np.float32)
            shaped = scale.reshape([-1] + [1] * (rank - 1)) if scale.ndim else scale
            self._scales[alpha, rank] = self._add("scale", shaped)
        return self._scales[alpha, rank]


def saturates(integers: npt.NDArray[Any]) -> bool:
    """Return whether uint8 activations can saturate int16 sums of two neighbouring products.

    integers is an int8 weight of shape (K, N), or (C_out, ...) flattened to (K, C_out). The sum
    xq[k] * Wq[k] + xq[k+1] * Wq[k+1], k even, reaches 255 times the sum of their positive parts,
    and minus that of the negative parts; int16 holds -32768 to 32767.
    """
    k = integers.shape[0] // 2 * 2
    pairs = integers[:k].astype(np.int32).reshape(k // 2, 2, -1)
    highest = np.maximum(pairs, 0).sum(axis=1) * 255
    lowest = np.minimum(pairs, 0).sum(axis=1) * 255
    return bool((highest > 32767).any() or (lowest < -32768).any())


def _overflows(integers: npt.NDArray[Any], zero: npt.NDArray[Any] | None, is_conv: bool) -> bool:
    """Return whether the accumulator of some output channel could leave int32."""
    centred = np.abs(integers.astype(np.int64) - (0 if zero is None else zero.astype(np.int64)))
    depth = tuple(range(1, integers.ndim)) if is_conv else integers.ndim - 2
    return bool((centred.sum(axis=depth) * 255 > INT32_MAX).any())


def _trimmed(inputs: list[ir.Value | None]) -> list[ir.Value | None]:
    """Return the inputs without those missing at the end."""
    while inputs[-1] is None:
        inputs = inputs[:-1]
    return inputs
