"""The weights of a model as rows beside the Hessian of their input, and how to replace them.

Shape legend: as in qtool.compress.hessian.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from qtool.compress.hessian import Hessian, from_gram, without_statistics
from qtool.hessian import Rows, matrix, rows_of
from qtool.model import Model, Statistics, add_initializer, array, attribute, constant
from qtool.quant.rewrite import ShortNames
from qtool.quant.selection import node_label, select
from qtool.quant.weight_uses import Use, is_weighted, weights

Float64 = npt.NDArray[np.float64]
HALVES = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
FLOATS = (ir.DataType.FLOAT, *HALVES, ir.DataType.DOUBLE)


@dataclass(frozen=True)
class _Moved:
    """Rows of a weight that no Gram matrix goes with: an axis of its own for the channels."""

    axis: int

    def of(self, weight: npt.NDArray[Any]) -> npt.NDArray[Any]:
        first = np.ascontiguousarray(np.moveaxis(weight, self.axis, 0))
        return first.reshape(1, len(first), -1)

    def back(self, rows: npt.NDArray[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
        rest = [d for i, d in enumerate(shape) if i != self.axis]
        return np.ascontiguousarray(
            np.moveaxis(rows.reshape(shape[self.axis], *rest), 0, self.axis)
        )


class WeightLayer:
    """A node and one constant weight that it reads, float or integers with a scale."""

    def __init__(self, use: Use, value: ir.Value, statistics: Statistics | None) -> None:
        """Take the weight `value`; use says which node reads it where."""
        tensor = constant(value)
        assert tensor is not None
        self.node, self.value = use.node, value
        self.name = node_label(use.node)
        self.shape = tuple(tensor.shape.numpy())
        self.index = use.index
        self.integer: ir.Node | None = None  # the DequantizeLinear of integers
        self.channel = use.channel(self.shape)
        self._shared = len(value.uses()) > 1
        self._gram = self._find_gram(statistics)
        self._n_samples = 0 if statistics is None else statistics.n_samples
        self.rows_layout: Rows | _Moved = (
            rows_of(use.node, use.index) if self._gram is not None else _Moved(self.channel or 0)
        )

    def _find_gram(self, statistics: Statistics | None) -> Any:
        straight = self.value in self.node.inputs or self.node.op_type in ("Conv", "Gemm")
        if statistics is None or not straight or len(self.shape) < 2:
            return None
        gram = statistics.grams.get(self.node.outputs[0].name or "")
        if gram is None or gram.count == 0 or self.node.op_type not in ("Conv", "Gemm", "MatMul"):
            return None
        depth = gram.size - 1
        total = int(np.prod(self.shape))
        return gram if depth and total % (depth * gram.groups) == 0 else None

    @property
    def has_gram(self) -> bool:
        """Whether the statistics hold what the layer is fed."""
        return self._gram is not None

    @property
    def size(self) -> int:
        """The number of weights."""
        return int(np.prod(self.shape))

    @cached_property
    def weights(self) -> npt.NDArray[Any]:
        """The weight as it is stored: floats, or integers."""
        tensor = constant(self.value)
        assert tensor is not None
        return tensor.numpy()

    @property
    def rows(self) -> Float64:
        """The weight as real numbers, (G, C, K)."""
        return np.asarray(self.rows_layout.of(self.weights).astype(np.float64) * self._unit)

    @property
    def _unit(self) -> Any:
        return 1.0 if self.integer is None else self.scales[..., None]

    @cached_property
    def scales(self) -> Float64:
        """The scale of each row, (G, C); 1 for floats."""
        shape = self.rows_layout.of(self.weights).shape[:2]
        if self.integer is None:
            return np.ones(shape)
        scale = np.asarray(array(self.integer.inputs[1]), np.float64).ravel()
        return np.broadcast_to(scale, shape[0] * shape[1]).reshape(shape)

    @cached_property
    def hessian(self) -> Hessian:
        """What is known of the input."""
        if self._gram is None:
            groups, _, depth = self.rows_layout.of(self.weights).shape
            return without_statistics(groups, depth)
        return from_gram(
            matrix(self._gram), self._gram.count, self._n_samples,
            centered=self.bias_moves or self.integer_bias is not None,
        )  # fmt: skip

    @cached_property
    def input_scale(self) -> npt.NDArray[Any] | None:
        """The scale of the layer's quantized input where it is one number."""
        source = None if self.node.inputs[0] is None else self.node.inputs[0].producer()
        if source is None or source.op_type != "DequantizeLinear":
            return None
        found = array(source.inputs[1])
        return found if found is not None and found.size == 1 else None

    @cached_property
    def integer_bias(self) -> ir.Node | None:
        """The DequantizeLinear of an int32 bias that can take up the mean of the output error."""
        value = self.node.inputs[2] if len(self.node.inputs) > 2 else None
        node = None if value is None else value.producer()
        alone = value is not None and len(value.uses()) == 1 and self.integer is not None
        if node is None or node.op_type != "DequantizeLinear" or not alone:
            return None
        integers, scale = array(node.inputs[0]), array(node.inputs[1])
        if integers is None or scale is None or self.input_scale is None or self._gram is None:
            return None
        fits = integers.dtype == np.int32 and integers.size == self.scales.size
        return node if fits and self.node.op_type in ("Conv", "Gemm") else None

    @cached_property
    def bias_moves(self) -> bool:
        """Whether a bias of the layer's own can take up the mean of the output error."""
        node = self.node
        if node.op_type not in ("Conv", "Gemm") or self._shared or self._gram is None:
            return False
        if node.op_type == "Gemm":
            plain = attribute(node, "alpha", 1.0) == 1 and attribute(node, "beta", 1.0) == 1
            if self.index != 1 or not plain:
                return False
        if len(node.inputs) < 3 or node.inputs[2] is None:
            return self.integer is None
        bias = constant(node.inputs[2])
        return (
            bias is not None
            and node.inputs[2].is_initializer()
            and bias.dtype in FLOATS
            and bias.size == self.size // self.hessian_depth
            and len(node.inputs[2].uses()) == 1
        )

    @property
    def hessian_depth(self) -> int:
        """K."""
        return int(self._gram.size - 1)

    def rows_layout_for(self, groups: int) -> Rows | _Moved:
        """Return the layout of the rows with another number of groups."""
        layout = self.rows_layout
        return replace(layout, groups=groups) if isinstance(layout, Rows) else layout

    @property
    def depthwise(self) -> bool:
        """Whether every channel has its own few weights."""
        if self.node.op_type not in ("Conv", "ConvTranspose"):
            return False
        return attribute(self.node, "group", 1) > 1 and self.size // self.shape[0] <= 64

    @property
    def taps(self) -> int:
        """Positions of a convolution's kernel."""
        return int(np.prod(self.shape[2:])) if self.node.op_type == "Conv" else 1


def weight_layers(
    model: Model, only: tuple[str, ...] = (), exclude: tuple[str, ...] = (), *, min_size: int = 0
) -> list[WeightLayer]:
    """Return the selected layers with constant weights of at least min_size, in order.

    Integers with a DequantizeLinear count as the weight that they stand for.
    """
    selected = select(model, only, exclude).nodes
    found = []
    for value, uses in weights(model).items():
        mine = [use for use in uses if use.is_weight and use.node in selected]
        tensor = constant(value)
        if mine and tensor is not None and tensor.dtype in FLOATS:
            found.append(WeightLayer(mine[0], value, model.statistics))
    found += _integers(model, selected)
    order = {node: i for i, node in enumerate(model.graph)}
    found = [layer for layer in found if layer.size >= max(min_size, 1)]
    finite = [layer for layer in found if np.isfinite(layer.weights.astype(np.float32)).all()]
    return sorted(finite, key=lambda layer: order.get(layer.node, -1))


def _integers(model: Model, selected: Container[ir.Node]) -> Iterator[WeightLayer]:
    for node in model.graph:
        if node in selected and is_weighted(node):
            for index, value in enumerate(node.inputs[:2]):
                layer = _integer(node, index, value, model.statistics)
                if layer is not None:
                    yield layer


def _integer(
    node: ir.Node, index: int, value: ir.Value | None, statistics: Statistics | None
) -> WeightLayer | None:
    """Return the int8 weight behind a DequantizeLinear, symmetric with a scale for each row."""
    dequantize = None if value is None else value.producer()
    if dequantize is None or dequantize.op_type != "DequantizeLinear":
        return None
    source, tensor = dequantize.inputs[0], constant(dequantize.inputs[0])
    if source is None or tensor is None or tensor.dtype != ir.DataType.INT8:
        return None
    use = Use(node, index, tuple(range(len(tensor.shape))))
    zero = array(dequantize.inputs[2]) if len(dequantize.inputs) > 2 else None
    blocked = attribute(dequantize, "block_size", 0)
    if len(tensor.shape) < 2 or not use.is_weight or blocked or (zero is not None and zero.any()):
        return None
    layer = WeightLayer(use, source, statistics)
    layer.integer, scale = dequantize, array(dequantize.inputs[1])
    axis = attribute(dequantize, "axis", 1) % len(tensor.shape)
    fits = scale is not None and (scale.size == 1 or axis == layer.channel)
    return layer if fits else None


class Edit:
    """Replaces weights of a model's graph in place."""

    def __init__(self, model: Model) -> None:
        """Edit this model, a copy that nobody else holds."""
        self._graph = model.graph
        self._names = ShortNames(model.graph)

    def floats(self, layer: WeightLayer, rows: Float64) -> None:
        """Store the rows as floats of the type that the weight has."""
        values = layer.rows_layout.back(rows, layer.shape).astype(layer.weights.dtype)
        self.store(layer.value, values)

    def integers(self, layer: WeightLayer, rows: npt.NDArray[Any]) -> None:
        """Store other integers under the scale that is there."""
        self.store(layer.value, layer.rows_layout.back(rows, layer.shape).astype(np.int8))

    def store(self, value: ir.Value, values: npt.NDArray[Any]) -> None:
        """Give a constant other values, of any shape."""
        producer = value.producer()
        if producer is None:
            value.const_value = ir.Tensor(values, name=value.name)
            value.shape = ir.Shape(values.shape)
        else:
            added = add_initializer(self._graph, self._names("weight"), values)
            value.replace_all_uses_with(added)

    def replace(self, node: ir.Node, index: int, values: npt.NDArray[Any]) -> None:
        """Give one input of a node, a constant, other values; other readers keep theirs."""
        value = node.inputs[index]
        if value is not None and value.is_initializer() and len(value.uses()) == 1:
            self.store(value, values)
        else:
            added = add_initializer(self._graph, self._names.short("scale"), values)
            node.replace_input_with(index, added)

    def grid(self, layer: WeightLayer, integers: npt.NDArray[np.int8], steps: Float64) -> None:
        """Store integers with a DequantizeLinear, its scale one number where the steps agree."""
        values = layer.rows_layout.back(integers, layer.shape)
        one = bool(np.all(steps == steps.flat[0]))
        scale = np.float32(steps.flat[0]) if one else steps.ravel().astype(np.float32)
        kind = layer.weights.dtype
        half = constant(layer.value).dtype in HALVES  # type: ignore[union-attr]
        scale = np.asarray(scale, kind if half else np.float32)
        value, graph = layer.value, self._graph
        shape = None if value.shape is None else value.shape.copy()
        name = value.name or self._names("weight")
        if value.producer() is None:
            graph.initializers.pop(name)
        else:
            name = self._names(name)
        inputs = [
            add_initializer(graph, name, values),
            add_initializer(graph, self._names.short("scale"), scale),
        ]
        dtype = ir.DataType.from_numpy(scale.dtype)
        output = ir.Value(name=self._names.short("dq"), type=ir.TensorType(dtype), shape=shape)
        axis = {} if one else {"axis": layer.channel or 0}
        nodes = [ir.node("DequantizeLinear", inputs, axis, outputs=[output], name="")]
        if kind == np.float64:
            wide = ir.Value(name=self._names.short("dq"), type=ir.TensorType(ir.DataType.DOUBLE))
            to = {"to": ir.DataType.DOUBLE.value}
            nodes.append(ir.node("Cast", [output], to, outputs=[wide], name=""))
        value.replace_all_uses_with(nodes[-1].outputs[0])
        graph.insert_before(graph[0], nodes)

    def bias(self, layer: WeightLayer, error: Float64) -> None:
        """Let the bias take up the mean of the output error, given w - q as rows (G, C, K)."""
        if not layer.bias_moves:
            return
        delta = np.einsum("gck,gk->gc", error, layer.hessian.mean).ravel()
        self.add_bias(layer, delta)

    def add_bias(self, layer: WeightLayer, delta: Float64) -> None:
        """Add delta, (G * C,), to the layer's bias, which is made where there is none."""
        node = layer.node
        old = node.inputs[2] if len(node.inputs) > 2 else None
        if old is not None:
            values = np.asarray(array(old))
            self.store(old, (values + delta.reshape(values.shape)).astype(values.dtype))
        elif np.any(delta):
            values = delta.astype(layer.weights.dtype)
            added = add_initializer(self._graph, self._names.short("bias"), values)
            node.resize_inputs(3)
            node.replace_input_with(2, added)

    def round_biases(self, layers: Iterable[WeightLayer]) -> None:
        """Round float32 biases to 8 significant bits: half of their bytes are then 0."""
        for layer in layers:
            old = layer.node.inputs[2] if len(layer.node.inputs) > 2 else None
            if layer.bias_moves and old is not None and old.dtype in (None, ir.DataType.FLOAT):
                values = np.asarray(array(old))
                self.store(old, _short(values))


def _short(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    mantissa, exponent = np.frexp(values)
    return np.asarray(np.ldexp(np.round(mantissa * 256) / 256, exponent), values.dtype)
