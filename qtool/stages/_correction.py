"""Sequential bias correction: layer after layer, each channel gets the float model's mean.

Shape legend: C output channels; means are taken over samples and positions.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from qtool.model import Model, array
from qtool.quant.op_rules import rule_of, weight_index
from qtool.quant.qdq_constants import read_qparams
from qtool.runtime.ort import OrtSession
from qtool.runtime.sweep import sweep
from qtool.stages._frontier import Frontier, walk

SAMPLES = 64  # whose paired difference of means is known well enough
ACTIVE = 0.2  # the least share of elements that are taken to follow the bias
FIXED = 2.0**32  # means are summed in this unit, exactly, so that their order does not matter
INT32_MAX = 2**31 - 1

Array = npt.NDArray[Any]
Progress = Callable[[Iterable[Any], str, "int | None"], Iterable[Any]]


@dataclass(frozen=True)
class Layer:
    """A layer with an integer bias, and the quantized tensor that shows its output."""

    node: ir.Node
    quantize: ir.Node  # the QuantizeLinear of its output, a Relu or Clip included
    name: str  # of the same tensor in the float model

    @property
    def bias(self) -> ir.Node:
        """The DequantizeLinear of its bias."""
        rule = rule_of(self.node)
        found = None if rule is None or rule.bias is None else self.node.inputs[rule.bias]
        node = None if found is None else found.producer()
        assert node is not None
        return node


def correct(
    model: Model, quantized: Model, *, data: Any, threads: int, progress: Progress
) -> list[str]:
    """Shift the integer biases of the quantized model; return the names of the layers corrected.

    Front to back, so that each layer sees the inputs that those before it, corrected, give it.
    The difference of the means behind the activation function is divided by the share of
    elements that follow the bias. Memory: two vectors per layer, and what a Frontier keeps.
    """
    samples = some(data)
    wanted = wanted_means(model, quantized, samples, threads)
    frontier = Frontier(quantized, samples)
    for layer, means in progress(wanted.values(), "correcting biases", len(wanted)):
        correct_layer(layer, means, frontier, threads)
    return [layer.name for layer, _ in wanted.values()]


def wanted_means(
    model: Model, quantized: Model, samples: list[Callable[[], Any]], threads: int
) -> dict[ir.Node, tuple[Layer, Array]]:
    """Return the layers with a bias to shift, in order, and the float model's means of each."""
    known = {v.name for node in model.graph for v in node.outputs}
    layers = [layer for layer in _layers(quantized) if layer.name in known]
    if not layers:
        return {}
    few = [samples[i] for i in _few(len(samples))]
    means = _float_means(model, [layer.name for layer in layers], few, threads)
    return {layer.node: (layer, means[layer.name]) for layer in layers}


def _few(count: int) -> range:
    """Return the indices of SAMPLES of the samples at most, spread evenly."""
    return range(0, count, -(-count // SAMPLES) or 1)


def _layers(quantized: Model) -> Iterable[Layer]:
    for node in quantized.graph:
        rule = rule_of(node)
        if node.op_type not in ("Conv", "Gemm") or weight_index(node) is None or rule is None:
            continue
        bias = node.inputs[rule.bias] if rule.bias and len(node.inputs) > rule.bias else None
        source = None if bias is None else bias.producer()
        readers = [u for u in node.outputs[0].consumers() if u.op_type == "QuantizeLinear"]
        if source is None or source.op_type != "DequantizeLinear" or not readers:
            continue
        if array(source.inputs[0]) is not None and read_qparams(readers[0]) is not None:
            yield Layer(node, readers[0], node.outputs[0].name or "")


def some(data: Any, most: int = SAMPLES) -> list[Callable[[], Any]]:
    """Return functions that load up to so many samples, spread evenly over the data."""
    if getattr(data, "n", None) is None and not hasattr(data, "__len__"):
        return [partial(_same, sample) for sample, _ in zip(data, range(most), strict=False)]
    count = len(data)
    chosen = range(0, count, max(1, count // most))
    return [partial(data.__getitem__, i) for i in list(chosen)[:most]]


def _same(sample: Any) -> Any:
    return sample


def _float_means(
    model: Model, names: list[str], samples: list[Callable[[], Any]], threads: int
) -> dict[str, Array]:
    sums: dict[str, Any] = dict.fromkeys(names, 0)
    lock = threading.Lock()

    def see(_: Any, outputs: Mapping[str, Array]) -> None:
        means = {k: v.mean(axis=_others(v), dtype=np.float64) for k, v in outputs.items()}
        fixed = {k: np.rint(v * FIXED).astype(np.int64) for k, v in means.items()}
        with lock:
            for name, value in fixed.items():
                sums[name] = sums[name] + value

    sweep(OrtSession(model, outputs=names), samples, see, threads=threads)
    return {name: np.asarray(value / (FIXED * len(samples))) for name, value in sums.items()}


def correct_layer(layer: Layer, wanted: Array, frontier: Frontier, threads: int) -> None:
    """Shift the bias of a layer of the quantized model so that it gives the means wanted.

    Nothing in front of the layer changes any more.
    """
    qparams = read_qparams(layer.quantize)
    assert qparams is not None
    low, high = qparams.limits
    name = layer.quantize.outputs[0].name or ""
    totals = np.zeros((3, len(wanted)), np.int64)  # sum, elements between the limits, elements
    lock = threading.Lock()

    def see(_: int, outputs: Sequence[Array]) -> None:
        q = outputs[0]
        active = (q > low) & (q < high)
        n = q.size // len(wanted)
        seen = [q.sum(_others(q), dtype=np.int64), active.sum(_others(q)), np.full(len(wanted), n)]
        with lock:
            totals[:] += np.stack(seen)

    source = layer.node.inputs[0]
    piece = frontier.to(name, past=None if source is None else source.name)
    walk([piece], see, among=_few(len(frontier)), threads=threads)
    mean = (totals[0] / totals[2] - int(qparams.zero_point)) * float(qparams.scale)
    shift = (wanted - mean) / np.maximum(totals[1] / totals[2], ACTIVE)
    _shift(layer.bias, shift)


def _shift(bias: ir.Node, shift: Array) -> None:
    integers, scale = array(bias.inputs[0]), array(bias.inputs[1])
    value = bias.inputs[0]
    assert integers is not None
    assert scale is not None
    assert value is not None
    moved = np.rint(integers + shift / scale.astype(np.float64))
    stored = np.clip(moved, -INT32_MAX, INT32_MAX).astype(np.int32)
    value.const_value = ir.Tensor(stored, name=value.name)


def _others(values: Array) -> tuple[int, ...]:
    """Return the axes that do not run over channels: of a Conv those but 1, of a Gemm the first."""
    return tuple(i for i in range(values.ndim) if i != 1)
