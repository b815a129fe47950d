"""Sequential rounding: layer after layer, with the inputs that the quantized layers before give.

Each layer is to give what the float model's gives, not what its own weights would make of inputs
that are off: weights go where a least squares fit on samples says, then they are rounded. Shape
legend: as in qtool/quant/moments.py.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from qtool.hessian import Rows, damped, rows_of
from qtool.model import Model, add_initializer, array, attribute
from qtool.qparams import QParams, limits
from qtool.quant.layer_rounding import Rounded, Search, rounded, search_rows, spread_of
from qtool.quant.moments import FOLDS, UNIT_BITS, Fit, Moments, fit
from qtool.quant.op_rules import CLAMPS
from qtool.quant.qdq_constants import read_qparams
from qtool.quant.rewrite import ShortNames
from qtool.quant.weights import STORAGE
from qtool.shapes import infer_shapes
from qtool.stages import _correction as correction
from qtool.stages._frontier import Frontier, walk
from qtool.stages._positions import inputs_at, outputs_at, positions
from qtool.statistics.gram import Layer as Geometry
from qtool.statistics.gram import gram_layers

log = logging.getLogger("qtool")

SAMPLES = 256  # that each layer is fitted on
HELD_BYTES = 1 << 28  # of samples in memory
POSITIONS = 1 << 16  # of all samples that a layer is fitted on
WEIGHT_BITS = 24  # of weights in fixed point: sums of products with 16-bit inputs stay exact
FEW_BITS = 4
INT32_MAX = 2**31 - 1

Array = npt.NDArray[Any]
Float64 = npt.NDArray[np.float64]
Progress = Callable[[Iterable[Any], str, "int | None"], Iterable[Any]]


@dataclass(frozen=True)
class Layer:
    """A weighted node of the quantized graph, and what it is in the float model.

    name: the tensor of the float model that its output stands for, clamps included. rows: the
    float weights (G, C, K). dtype: the integers of its weights.
    """

    node: ir.Node
    name: str
    geometry: Geometry
    layout: Rows
    rows: Float64
    bias: Float64  # (G, C), of the float model
    dtype: str

    @property
    def weight(self) -> ir.Node:
        """The DequantizeLinear of the weight."""
        return _producer(self.node.inputs[1])

    @property
    def source(self) -> ir.Node:
        """The DequantizeLinear of the input."""
        return _producer(self.node.inputs[0])

    @property
    def has_bias(self) -> bool:
        """Whether there is a bias that can move."""
        return len(self.node.inputs) > 2 and self.node.inputs[2] is not None

    @property
    def reader(self) -> ir.Node | None:
        """The QuantizeLinear of the output; None where it stays float."""
        users = self.node.outputs[0].consumers()
        return next((u for u in users if u.op_type == "QuantizeLinear"), None)

    @property
    def ends(self) -> tuple[float, float]:
        """The real values between which the output saturates."""
        qparams = None if self.reader is None else read_qparams(self.reader)
        if qparams is None or qparams.scale.ndim:
            return -np.inf, np.inf
        scale, zero = float(qparams.scale), int(qparams.zero_point)
        low, high = ((end - zero) * scale for end in qparams.limits)
        return low, high


def round_sequentially(
    model: Model,
    quantized: Model,
    *,
    dtype_of: Callable[[ir.Node], str | None],
    search: Search,
    data: Any,
    threads: int,
    progress: Progress,
    corrects: bool = True,
) -> list[str]:
    """Fit and round the weights of the quantized model in place; return the names of the layers.

    dtype_of says which integers the weight of a node becomes, None to leave it. search finds
    them, with scales and zero points of weights of few bits. corrects also shifts each bias, as
    correct() does.
    Memory: the sums of one layer, up to HELD_BYTES of samples, and what two Frontiers keep.
    """
    layers = list(_layers(model, quantized, dtype_of))
    samples = _held(data)
    shifts = correction.wanted_means(model, quantized, samples, threads) if corrects else {}
    target, given = Frontier(model, samples), Frontier(quantized, samples)
    for layer in progress(layers, "rounding layers", len(layers)):
        moments = _collect(layer, target, given, threads)
        found = fit(moments, centre=layer.has_bias)
        _store(layer, quantized.graph, _round(layer, found, search), found)
        if layer.node in shifts:
            correction.correct_layer(*shifts[layer.node], given, threads)
        log.debug("%s: fitted with ridge %s", layer.name, found.ridge)
    return [layer.name for layer in layers]


def _held(data: Any) -> list[Callable[[], Any]]:
    """Return functions that give samples from memory, spread evenly over the data."""
    first = correction.some(data, 1)[0]()
    size = sum(np.asarray(v).nbytes for v in first.feeds.values())
    most = max(1, min(SAMPLES, HELD_BYTES // max(1, size)))
    kept = [load() for load in correction.some(data, most)]
    return [lambda sample=sample: sample for sample in kept]  # type: ignore[misc]


def _layers(
    model: Model, quantized: Model, dtype_of: Callable[[ir.Node], str | None]
) -> Iterable[Layer]:
    typed = infer_shapes(model)
    values = {v.name: v for node in typed.graph for v in node.outputs}
    geometries = {layer.name: layer for layer in gram_layers(typed)}
    for node in quantized.graph:
        name = node.outputs[0].name if node.outputs else None
        if node.op_type not in ("Conv", "Gemm", "MatMul") or name not in values or not _fits(node):
            continue
        dtype = dtype_of(node)
        if dtype is None:
            continue
        given = _behind(values[name].producer(), node.op_type)
        geometry = None if given is None else geometries.get(given.outputs[0].name or "")
        if given is None or geometry is None or geometry.axis != -1:
            continue
        weight = array(given.inputs[1])
        if weight is None:  # of a Gemm whose first input is constant
            continue
        layout = rows_of(given)
        rows = layout.of(weight.astype(np.float64))
        old = array(given.inputs[2]) if len(given.inputs) > 2 else None
        bias = np.zeros(rows.shape[:2]) if old is None else np.broadcast_to(
            old.astype(np.float64).reshape(-1), (rows.shape[0] * rows.shape[1],)
        ).reshape(rows.shape[:2])  # fmt: skip
        yield Layer(node, name or "", geometry, layout, rows, bias, dtype)


def _fits(node: ir.Node) -> bool:
    """Return whether a node has integer inputs and a weight of its own, and a plain bias if any."""
    dequantized = [value.producer() if value is not None else None for value in node.inputs]
    if any(d is None or d.op_type != "DequantizeLinear" for d in dequantized):
        return False
    x, weight = (read_qparams(d) for d in dequantized[:2])
    value = dequantized[1].inputs[0] if dequantized[1] is not None else None
    if x is None or x.scale.ndim or weight is None or value is None or array(value) is None:
        return False
    alone = len(node.inputs[1].uses()) == 1 and len(value.uses()) == 1  # type: ignore[union-attr]
    return alone and attribute(node, "alpha", 1.0) == attribute(node, "beta", 1.0) == 1.0


def _behind(node: ir.Node | None, op_type: str) -> ir.Node | None:
    """Return the weighted node whose output only goes through clamps to what node gives."""
    while node is not None and node.op_type in (*CLAMPS, "Min", "Max"):
        node = node.inputs[0].producer() if node.inputs[0] is not None else None
    return node if node is not None and node.op_type == op_type else None


def _collect(layer: Layer, target: Frontier, given: Frontier, threads: int) -> Moments:
    """Return the sums over samples of what the layer is fed and what it lacks."""
    x = read_qparams(layer.source)
    assert x is not None
    integers = layer.source.inputs[0]
    name = "" if integers is None else integers.name or ""
    pieces = [target.to(layer.name, past=layer.name), given.to(name, past=name)]
    groups, channels, depth = layer.rows.shape
    first = np.abs(pieces[0].run(0)).max(initial=0.0)
    unit = 2.0 ** (np.ceil(np.log2(max(float(first), 1e-30))) + 4 - UNIT_BITS)
    moments = Moments(groups, channels, depth, unit)
    lacks = _lacking(layer, float(x.scale))
    lock = threading.Lock()
    most = -(-POSITIONS // len(target))

    def see(index: int, outputs: Sequence[Array]) -> None:
        wanted, inputs = outputs
        at = positions(wanted, layer.geometry, most, index)
        x_at = inputs_at(inputs, int(x.zero_point), layer.geometry, at)
        sums = moments.of(x_at, lacks(x_at, outputs_at(wanted, layer.geometry, at)))
        with lock:
            moments.add(index % FOLDS, sums)

    walk(pieces, see, among=range(len(target)), threads=threads)
    return moments


def _lacking(layer: Layer, scale: float) -> Callable[[Float64, Float64], Float64]:
    """Return the function that tells what the float weights leave to the output wanted.

    Products are summed in fixed point, which is exact. Outputs beyond the range saturate.
    """
    top = float(np.abs(layer.rows).max(initial=0.0)) or 1.0
    step = 2.0 ** (np.ceil(np.log2(top)) - WEIGHT_BITS)
    weights, bias = np.rint(layer.rows / step), layer.bias[..., None]
    low, high = layer.ends

    def lacks(x: Float64, wanted: Float64) -> Float64:
        made = weights @ x.transpose(0, 2, 1) * (step * scale) + bias
        return np.asarray(np.clip(wanted, low, high) - np.clip(made, low, high))

    return lacks


def _round(layer: Layer, found: Fit, search: Search) -> tuple[Rounded, Float64]:
    """Return the integers of a layer, and the bias (N,) that goes with them."""
    x, old = read_qparams(layer.source), read_qparams(layer.weight)
    assert x is not None
    assert old is not None
    few = layer.dtype.endswith(("3", "4"))
    zeros = search.zeros and few and old.axis is not None
    search = replace(search, scales=search.scales and few, zeros=zeros)
    symmetric = layer.dtype[0] != "u" and not old.zero_point.any()
    qparams = replace(old, dtype=layer.dtype, narrow=symmetric)
    ends = limits(layer.dtype, narrow=symmetric and not zeros)
    scale = float(x.scale)
    rows = layer.rows + found.change / scale
    spread = spread_of(qparams, _shape(layer))
    h = damped(found.h)
    done = search_rows(search, rows, h, layer.layout, spread, ends, None)
    real = layer.layout.of(done.scale * (done.integers - done.zero))
    lost = np.einsum("gck,gk->gc", layer.rows - real, found.mean * scale)
    return rounded(done, spread, qparams, zeros), (layer.bias + found.missing + lost).reshape(-1)


def _shape(layer: Layer) -> tuple[int, ...]:
    integers = array(layer.weight.inputs[0])
    assert integers is not None
    return tuple(integers.shape)


def _store(layer: Layer, graph: ir.Graph, done: tuple[Rounded, Float64], found: Fit) -> None:
    """Put integers, scales, zero points and bias into the graph."""
    made, bias = done
    node, qparams = layer.weight, made.qparams
    x = read_qparams(layer.source)
    assert x is not None
    _replace(node, 0, made.integers.astype(STORAGE[layer.dtype]), graph)
    _replace(node, 1, qparams.scale, graph)
    if qparams.zero_point.any() or len(node.inputs) > 2:
        _replace(node, 2, qparams.zero_point.astype(STORAGE[layer.dtype]), graph)
    if layer.has_bias:
        _store_bias(_producer(layer.node.inputs[2]), bias, qparams, x, graph)


def _store_bias(node: ir.Node, bias: Float64, weight: QParams, x: QParams, graph: ir.Graph) -> None:
    scale = np.asarray(weight.scale * x.scale, np.float32)
    steps = np.clip(np.rint(bias / scale.astype(np.float64)), -INT32_MAX, INT32_MAX)
    _replace(node, 0, steps.astype(np.int32), graph)
    _replace(node, 1, scale, graph)
    if len(node.inputs) > 2:
        _replace(node, 2, np.zeros(scale.shape, np.int32), graph)


def _replace(node: ir.Node, index: int, values: Array, graph: ir.Graph) -> None:
    """Give a node another constant, the one it has if no other reads that."""
    if index >= len(node.inputs):
        node.resize_inputs(index + 1)
    old = node.inputs[index]
    if old is not None and old.is_initializer() and len(old.uses()) == 1:
        old.const_value = ir.Tensor(values, name=old.name)
        old.shape = ir.Shape(values.shape)
        return
    stem = ("q", "scale", "zero")[index]
    node.replace_input_with(index, add_initializer(graph, ShortNames(graph).short(stem), values))


def _producer(value: ir.Value | None) -> ir.Node:
    node = None if value is None else value.producer()
    assert node is not None
    return node
