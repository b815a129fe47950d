"""How much each layer's output error costs at the outputs of the model, measured by probes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from qtool.compress.grid import nearest_error
from qtool.hessian import output_error
from qtool.model import Model
from qtool.runtime.ort import OrtSession
from qtool.stages._weights import Edit, WeightLayer, weight_layers

log = logging.getLogger("qtool")
Float64 = npt.NDArray[np.float64]
PROBES = 24  # samples
SHARE = 2.0**-8  # of a layer's output variance that a probe makes of noise, about
Progress = Callable[[Iterable[Any], str, "int | None"], Iterable[Any]]


def by_variance(layers: Sequence[WeightLayer]) -> dict[str, float]:
    """Return for each layer the cost of output error when relative error costs all the same."""
    return {layer.name: 1 / max(variance(layer), 1e-30) for layer in layers}


def variance(layer: WeightLayer) -> float:
    """Return the summed variance of the layer's output channels."""
    zero = np.zeros_like(layer.rows)
    return float(output_error(layer.rows, zero, layer.hessian.matrix).sum())


def by_probes(
    model: Model, layers: Sequence[WeightLayer], samples: Any, progress: Progress
) -> dict[str, float]:
    """Return for each layer the relative error of the outputs per unit of its output error.

    Each layer alone gets its weights rounded, far coarser than it will be; nothing but a few
    samples, without labels, is run: one pass over them for each layer.
    """
    feeds = [samples[i].feeds for i in spread(len(samples), PROBES)]
    wanted = _outputs(model, feeds)
    found = {}
    for layer in progress(layers, "probing", len(layers)):
        slope = SHARE * variance(layer) / layer.size
        copy = model.copy()
        mine = next(x for x in weight_layers(copy) if x.name == layer.name)
        rounded, error = nearest_error(mine.rows, layer.hessian, slope)
        edit = Edit(copy)
        edit.bias(mine, mine.rows - rounded)
        edit.floats(mine, rounded)
        found[layer.name] = max(_apart(wanted, _outputs(copy, feeds)), 1e-9) / max(error, 1e-30)
        log.debug("%s: %.3g of the outputs per unit of error", layer.name, found[layer.name])
    return found


def spread(n: int, wanted: int) -> list[int]:
    """Return up to `wanted` indices, evenly over n."""
    return sorted({i * n // wanted for i in range(wanted)}) if n > wanted else list(range(n))


def _outputs(model: Model, feeds: Sequence[Any]) -> list[list[npt.NDArray[Any]]]:
    session = OrtSession(model)
    return [[np.asarray(x) for x in session.run(one).values()] for one in feeds]


def _apart(wanted: list[list[Any]], found: list[list[Any]]) -> float:
    """Return the squared error of the outputs, each relative to its variance.

    Of probabilities the square roots are compared (Hellinger): rare classes count as well.
    """
    total = 0.0
    for place in range(len(wanted[0])):
        real = [comparable(one[place]) for one in wanted]
        other = [comparable(one[place]) for one in found]
        miss = sum(float(np.sum((a - b) ** 2)) for a, b in zip(real, other, strict=True))
        mean = sum(float(a.sum()) for a in real) / max(sum(a.size for a in real), 1)
        size = sum(float(np.sum((a - mean) ** 2)) for a in real)
        total += miss / max(size, 1e-30)
    return total


def comparable(values: npt.NDArray[Any]) -> Float64:
    """Return values whose squared differences tell a loss: of probabilities the square roots."""
    real = values.astype(np.float64)
    sums = real.sum(-1) if real.ndim else real
    probabilities = real.ndim > 0 and real.shape[-1] > 1 and np.all(real >= 0)
    if probabilities and np.allclose(sums, 1, atol=1e-3):
        return np.sqrt(real)
    return real
