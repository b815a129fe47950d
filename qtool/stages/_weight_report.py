"""What became of the weights of each layer: zeros, values, bits, and the output error of that."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from qtool.compress.rate import tensor_bits
from qtool.hessian import output_error
from qtool.model import Json, Model
from qtool.runtime.ort import OrtSession
from qtool.stages._probe import spread, variance
from qtool.stages._weights import WeightLayer, weight_layers

MEASURED = 16  # samples
MIN_SIZE = 2


@dataclass(frozen=True)
class LayerReport:
    """One layer. Errors are of its output, squared, relative to its variance.

    predicted: by the Gram matrix, of this layer alone; None without. measured: on samples, with
    the changes of all layers before it; None without samples.
    """

    name: str
    op: str
    weights: int
    sparsity: float
    values: int  # different ones
    bits: float  # of one weight under an ideal code
    predicted: float | None
    measured: float | None


@dataclass(frozen=True)
class WeightReport:
    """What became of the weights of a model."""

    layers: Sequence[LayerReport]

    @property
    def sparsity(self) -> float:
        """The share of zeros."""
        total = sum(layer.weights for layer in self.layers)
        return sum(x.sparsity * x.weights for x in self.layers) / max(total, 1)

    @property
    def bits(self) -> float:
        """The bits of one weight, on average."""
        total = sum(layer.weights for layer in self.layers)
        return sum(x.bits * x.weights for x in self.layers) / max(total, 1)

    def to_json(self) -> dict[str, Json]:
        """Return the report as a JSON object."""
        layers = [asdict(layer) for layer in self.layers]
        return {"sparsity": self.sparsity, "bits": self.bits, "layers": layers}


def weight_report(before: Model, after: Model, data: Any = None) -> WeightReport:
    """Return what became of the weights that both models have; data (samples) also measures."""
    old = {layer.name: layer for layer in weight_layers(before, min_size=MIN_SIZE)}
    mine = [layer for layer in weight_layers(after, min_size=MIN_SIZE) if layer.name in old]
    measured = {} if data is None else _measured(before, after, mine, data)
    return WeightReport([
        _layer(old[layer.name], layer, measured.get(layer.name)) for layer in mine
    ])  # fmt: skip


def _layer(old: WeightLayer, new: WeightLayer, measured: float | None) -> LayerReport:
    same = old.shape == new.shape
    error = None
    if same and old.has_gram:
        size = max(variance(old), 1e-30)
        error = float(output_error(old.rows, new.rows, old.hessian.matrix).sum()) / size
    values = new.weights
    return LayerReport(
        new.name, new.node.op_type, new.size, float(np.mean(values == 0)),
        int(np.unique(values).size), tensor_bits(values) / new.size, error, measured,
    )  # fmt: skip


def _measured(
    before: Model, after: Model, layers: Iterable[WeightLayer], data: Any
) -> dict[str, float]:
    names = {layer.name: layer.node.outputs[0].name or "" for layer in layers}
    sessions = [OrtSession(model, outputs=sorted(set(names.values()))) for model in (before, after)]
    sums: dict[str, npt.NDArray[np.float64]] = {}
    for i in spread(len(data), MEASURED):
        real, found = (session.run(data[i].feeds) for session in sessions)
        for tensor in real:
            if real[tensor].shape == found[tensor].shape:
                sums[tensor] = sums.get(tensor, np.zeros(4)) + _sums(real[tensor], found[tensor])
    ratios = {tensor: _ratio(*found) for tensor, found in sums.items()}
    return {name: ratios[tensor] for name, tensor in names.items() if tensor in ratios}


def _sums(real: npt.NDArray[Any], found: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    x, y = real.astype(np.float64), found.astype(np.float64)
    return np.array([np.sum((x - y) ** 2), np.sum(x * x), np.sum(x), x.size])


def _ratio(miss: float, squares: float, total: float, count: float) -> float:
    return float(miss / max(squares - total * total / max(count, 1), 1e-30))
