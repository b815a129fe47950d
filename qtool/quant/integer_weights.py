"""Weights as integer operators read them, and what can go wrong when they are multiplied.

Shape legend: a weight is (..., K, N), or (C_out, C_in / groups, ...) of a convolution.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from qtool.model import add_initializer, attribute, constant
from qtool.quant.encode import WeightScheme, encode
from qtool.quant.rewrite import ShortNames
from qtool.quant.weight_uses import Use

INT32_MAX = 2**31 - 1
INT16 = np.iinfo(np.int16)


@dataclass(frozen=True)
class IntegerWeight:
    """The integers of a weight, its zero point (None for 0), and its scale, () or (N,)."""

    integers: ir.Value
    zero_point: ir.Value | None
    scale: npt.NDArray[Any]
    scales: dict[tuple[float, int], ir.Value] = field(default_factory=dict)


class IntegerWeights:
    """Makes the integer weights of one model; nodes that can share one get the same."""

    def __init__(self, scheme: WeightScheme, names: ShortNames) -> None:
        self._scheme, self._names = scheme, names
        self._made: dict[tuple[ir.Value, tuple[int, ...]], IntegerWeight | str] = {}
        self._graphs: dict[ir.Value, ir.Graph] = {}
        self.n_saturating = 0

    def __len__(self) -> int:
        return len(self._graphs)

    def get(self, use: Use, root: ir.Value) -> IntegerWeight | str:
        """Return the integers of root as use.node reads them, or why they cannot be multiplied."""
        order = use.axes
        if use.node.op_type == "Gemm" and attribute(use.node, "transB", 0):
            order = order[::-1]
        if (root, order) not in self._made:
            self._made[root, order] = self._encode(use, root, order)
        return self._made[root, order]

    def scale(self, weight: IntegerWeight, alpha: float = 1.0, *, rank: int = 1) -> ir.Value:
        """Return alpha * scale as a constant whose channels are the first of rank axes."""
        if (alpha, rank) not in weight.scales:
            scale = (np.float32(alpha) * weight.scale).astype(np.float32)
            shaped = scale.reshape([-1] + [1] * (rank - 1)) if scale.ndim else scale
            graph = weight.integers.graph
            assert isinstance(graph, ir.Graph)
            value = add_initializer(graph, self._names.short("scale"), shaped)
            weight.scales[alpha, rank] = value
        return weight.scales[alpha, rank]

    def drop_float(self) -> None:
        """Remove the float weights, and transposed copies of them, that nothing reads any more."""
        for root, graph in self._graphs.items():
            for node, _ in list(root.uses()):
                if node.graph is not None and not any(v.uses() for v in node.outputs):
                    node.graph.remove(node, safe=True)
            producer = root.producer()
            if not root.uses() and producer is not None:
                graph.remove(producer, safe=True)
            elif not root.uses():
                graph.initializers.pop(root.name or "", None)
        for (root, _), weight in self._made.items():
            if isinstance(weight, IntegerWeight) and not root.uses():
                self._take_name(root, weight.integers)

    def _take_name(self, root: ir.Value, integers: ir.Value) -> None:
        """Let the integers be called as the weight was, unless others already are."""
        name, graph = root.name or "", self._graphs[root]
        if name and name not in graph.initializers:
            integers.name = name

    def _encode(self, use: Use, root: ir.Value, order: tuple[int, ...]) -> IntegerWeight | str:
        tensor, is_conv = constant(root), use.node.op_type == "Conv"
        assert tensor is not None
        shape = tensor.shape.numpy()
        encoded = encode(tensor, self._scheme, use.channel(shape), use.depth(shape))
        if encoded is None:
            return f"its weight {root.name!r} holds NaN or infinity"
        zero = encoded.zero_point
        if zero is not None and (zero == zero.flat[0]).all():
            zero = np.asarray(zero.flat[0])
        if zero is not None and zero.ndim and (is_conv or len(order) > 2):
            return "onnxruntime takes only one zero point here; use symmetric weights"
        integers = np.ascontiguousarray(encoded.integers.numpy().transpose(order))
        if overflows(integers, zero, is_conv=is_conv):
            return f"sums over its weight {root.name!r} could overflow int32"
        self.n_saturating += integers.dtype == np.int8 and saturates(_by_depth(integers, is_conv))
        return self._store(root, integers, zero, encoded.scale)

    def _store(
        self,
        root: ir.Value,
        integers: npt.NDArray[Any],
        zero: npt.NDArray[Any] | None,
        scale: npt.NDArray[Any],
    ) -> IntegerWeight:
        graph, name = root.graph, root.name or "weight"
        assert isinstance(graph, ir.Graph)
        self._graphs[root] = graph
        stored = add_initializer(graph, self._names(f"{name}_q"), integers)
        if zero is None:
            return IntegerWeight(stored, None, scale)
        zero_point = add_initializer(graph, self._names.short("zero"), zero)
        return IntegerWeight(stored, zero_point, scale)


def overflows(
    integers: npt.NDArray[Any], zero: npt.NDArray[Any] | None, *, is_conv: bool = False
) -> bool:
    """Return whether sum (xq - x_zp) * (Wq - w_zp) can leave int32, for |xq - x_zp| <= 255."""
    centred = np.abs(integers.astype(np.int32) - (0 if zero is None else zero.astype(np.int32)))
    depth = tuple(range(1, integers.ndim)) if is_conv else integers.ndim - 2
    return bool((centred.sum(axis=depth, dtype=np.int64) * 255 > INT32_MAX).any())


def saturates(integers: npt.NDArray[Any]) -> bool:
    """Return whether int16 sums of two neighbouring products with uint8 can saturate.

    integers is int8, its depth K along the first axis. The sum
    xq[k] * Wq[k] + xq[k+1] * Wq[k+1], for even k, reaches 255 times the sum of the positive of
    the two weights, and of the negative.
    """
    k = integers.shape[0] // 2 * 2
    pairs = integers[:k].astype(np.int32).reshape(k // 2, 2, -1)
    highest = 255 * np.maximum(pairs, 0).sum(axis=1)
    lowest = 255 * np.minimum(pairs, 0).sum(axis=1)
    return bool((highest > INT16.max).any() or (lowest < INT16.min).any())


def _by_depth(integers: npt.NDArray[Any], is_conv: bool) -> npt.NDArray[Any]:
    """Return a view of a weight with its depth as the first axis."""
    if is_conv:
        return integers.reshape(len(integers), -1).T
    return np.moveaxis(integers, -2, 0)
