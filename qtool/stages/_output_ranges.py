"""Ranges by what they do to the outputs of the layers that read a tensor, measured on samples.

For each linear layer that reads it, some positions x of some samples are kept. A range turns them
into Q(x); the layer then errs by W (Q(x) - x), of which the bias takes up the mean. What is rounded
counts by the squares of the weights, whatever the range; what is clipped, by the channels that it
is in and by how it adds up. Shape legend: as in qtool/quant/moments.py.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from qtool.hessian import rows_of
from qtool.model import Model, TensorStatistics, array
from qtool.qparams import QParams, dequantize, quantize
from qtool.quant.plan import Group
from qtool.runtime.ort import OrtSession
from qtool.runtime.sweep import sweep
from qtool.shapes import infer_shapes
from qtool.stages._correction import some
from qtool.stages._positions import inputs_at, positions
from qtool.statistics.gram import Layer, gram_layers
from qtool.statistics.ranges import RANGES

SAMPLES = 32
POSITIONS = 32  # of each sample
ELEMENTS = 1 << 23  # of the inputs of one layer that are kept
CLIPS = tuple(0.88**i for i in range(20))  # of the whole range, down to 9 %
LEAST = 10**0.01  # 0.1 dB: below, the range that the histogram tells stays

Range = tuple[float, float]
Array = npt.NDArray[Any]
Float32 = npt.NDArray[np.float32]
Parts = dict[int, Float32]


@dataclass(frozen=True)
class Reader:
    """A linear layer: its weight (G, C, K) and inputs (G, n, K) of two sets of samples."""

    weight: Float32
    inputs: tuple[Float32, Float32]
    signal: tuple[float, float]  # the variance of its outputs, of each set

    def noise(self, qparams: QParams) -> npt.NDArray[np.float64]:
        """Return noise over signal at the outputs (2,), of each set, for an input so quantized."""
        found = []
        for x, signal in zip(self.inputs, self.signal, strict=True):
            error = dequantize(quantize(x, qparams), qparams) - x
            found.append(_variance(error, self.weight) / signal if signal else 0.0)
        return np.array(found)


def _variance(x: Float32, weight: Float32) -> float:
    """Return the variance of the outputs over the positions, summed over channels."""
    centred = x - x.mean(axis=1, keepdims=True, dtype=np.float64).astype(np.float32)
    outputs = centred @ weight.transpose(0, 2, 1)
    return float(np.square(outputs, dtype=np.float64).sum() / max(x.shape[1], 1))


class OutputRanges:
    """Chooses the ranges of tensors of a model by samples; other tensors by the histogram."""

    def __init__(self, model: Model, data: Any, threads: int) -> None:
        """Run the float model over some samples."""
        typed = infer_shapes(model)
        nodes = {node.outputs[0].name: node for node in typed.graph if node.outputs}
        layers = [x for x in gram_layers(typed) if x.axis == -1 and x.name in nodes]
        parts = _inputs(typed, layers, some(data, SAMPLES), threads)
        self._names = {layer.name for layer in layers}
        self._readers: dict[str, list[Reader]] = {}
        for layer in layers:
            node = nodes[layer.name]
            weight = array(node.inputs[1])
            halves = _halves(parts[layer.name])
            if weight is not None and halves is not None:
                rows = rows_of(node).of(weight).astype(np.float32)
                signal = [_variance(x, rows) for x in halves]
                reader = Reader(rows, halves, (signal[0], signal[1]))
                self._readers.setdefault(layer.tensor, []).append(reader)

    def __call__(
        self,
        group: Group,
        statistics: TensorStatistics,
        make: Callable[[float, float], QParams],
        *,
        levels: int,
        symmetric: bool,
    ) -> Range | None:
        """Return the range (low, high) of a group of tensors; None where the histogram's stays.

        It has the least noise at the outputs in both halves of the samples. None where others than
        linear layers read the group, or where nothing gains. make turns a range into qparams.
        """
        readers = [r for v in group.members for r in self._readers.get(v.name or "", ())]
        if not readers or not all(self._is_seen(user, group) for user in _users(group)):
            return None
        grid = {"levels": levels, "symmetric": symmetric}
        plain = RANGES["auto"](statistics, **grid)  # type: ignore[arg-type]
        found = {plain: _noise(readers, make(*plain))}
        for pair in _candidates(statistics, grid):
            if pair not in found and pair[0] < pair[1]:
                found[pair] = _noise(readers, make(*pair))
        best = min(found, key=lambda pair: (float(found[pair].sum()), pair[0] - pair[1]))
        sure = bool((found[best] * LEAST < found[plain]).all())
        return best if sure else None

    def _is_seen(self, user: ir.Node, group: Group) -> bool:
        """Return whether a node is a linear layer that was looked at, or only moves the group."""
        return user.outputs[0].name in self._names or user.outputs[0] in group.members


def _users(group: Group) -> list[ir.Node]:
    return [user for value in group.members for user in value.consumers()]


def _noise(readers: Iterable[Reader], qparams: QParams) -> npt.NDArray[np.float64]:
    return np.asarray(np.sum([reader.noise(qparams) for reader in readers], axis=0))


def _candidates(statistics: TensorStatistics, grid: Mapping[str, Any]) -> Iterator[Range]:
    """Yield what all methods choose, and the whole range with either end or both drawn in."""
    for method in RANGES.values():
        yield method(statistics, **grid)
    low, high = RANGES["minmax"](statistics, **grid)
    for clip in CLIPS:
        yield low * clip, high * clip
        if low < 0 < high and not grid["symmetric"]:
            yield low, high * clip
            yield low * clip, high


def _inputs(
    model: Model, layers: list[Layer], samples: list[Callable[[], Any]], threads: int
) -> dict[str, Parts]:
    """Return by layer the inputs that its weights meet, (G, n, K), of each sample."""
    found: dict[str, Parts] = {layer.name: {} for layer in layers}
    inputs = {spec.name for spec in model.inputs()}
    lock = threading.Lock()

    def see(sample: Any, outputs: Mapping[str, Array]) -> None:
        values = {**sample.feeds, **outputs}
        for layer in layers:
            x = values[layer.tensor]
            part = inputs_at(x, 0, layer, _positions(x, layer, sample.index))
            with lock:
                found[layer.name][sample.index] = part.astype(np.float32)

    wanted = list(dict.fromkeys(layer.tensor for layer in layers))
    session = OrtSession(model, outputs=[name for name in wanted if name not in inputs])
    sweep(session, samples, see, threads=threads)
    return found


def _positions(x: Array, layer: Layer, index: int) -> npt.NDArray[np.intp]:
    most = max(1, min(POSITIONS, ELEMENTS // (SAMPLES * layer.groups * layer.depth)))
    size = layer.window.placed(x.shape[2:])[1] if layer.window else x.shape[1:-1]
    channels = (1,) if layer.window else ()
    shape = (len(x), *channels, *size) if layer.window else (*x.shape[:-1], 1)
    return positions(np.broadcast_to(np.float32(0), shape), layer, most, index)


def _halves(parts: Parts) -> tuple[Float32, Float32] | None:
    """Return the inputs of every other sample, and those of the others; None where too few."""
    ordered = [parts[index] for index in sorted(parts)]
    if len(ordered) < 2:
        return None
    first, second = (np.concatenate(ordered[i::2], axis=1) for i in range(2))
    return first, second
