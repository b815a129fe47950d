"""What quantized layers do on samples: one at a time, and all that come before together."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from qtool.data import Sample
from qtool.data.held import Held
from qtool.model import Model
from qtool.qparams import dequantize
from qtool.quant.pairs import Pair
from qtool.runtime.ort import OrtSession
from qtool.runtime.sweep import sweep
from qtool.stages._isolate import isolate
from qtool.stages._layer_sums import sqnr
from qtool.stages._layers import Layer, layers_of

Array = npt.NDArray[Any]
Progress = Callable[[Iterable[Any], str, "int | None"], Iterable[Any]]


@dataclass(frozen=True)
class Measured:
    """SQNR in dB at a layer's output and at the model's, None where it cannot be told.

    layer: only this layer is quantized. outputs: the same, at the model's outputs, the worst of
    them. cumulative: all layers are, at this one's output. saturated: share of the elements at an
    end of the grid that does not stand for 0.
    """

    layer: float | None = None
    outputs: float | None = None
    cumulative: float | None = None
    saturated: float | None = None


class Sums:
    """Sums of squares by name, from any number of threads; added up in the order of samples."""

    def __init__(self) -> None:
        self._parts: dict[int, dict[str, Array]] = {}
        self._lock = threading.Lock()

    def add(self, index: int, found: Mapping[str, Array]) -> None:
        """Take what one sample gave: small arrays by name."""
        with self._lock:
            self._parts[index] = dict(found)

    def total(self) -> dict[str, Array]:
        """Return the sum over all samples by name."""
        sums: dict[str, Array] = {}
        for index in sorted(self._parts):
            for name, part in self._parts[index].items():
                sums[name] = sums[name] + part if name in sums else part
        return sums


def _loads(data: Held) -> Iterator[Callable[[], Sample]]:
    return (partial(data.__getitem__, i) for i in range(len(data)))


def apart(real: Array, found: Array) -> Array:
    """Return the sums of squares of a float tensor and of what differs from it."""
    x = real.reshape(-1).astype(np.float64)
    noise = found.reshape(-1).astype(np.float64) - x
    return np.array([x @ x, noise @ noise])


def measure_alone(
    reference: Model,
    pairs: Sequence[Pair],
    data: Held,
    *,
    threads: int,
    progress: Progress,
    scaled: Callable[[Array], Array] = np.asarray,
) -> dict[str, Measured]:
    """Return, by label, what each pair does when only it is quantized.

    scaled: applied to the model's outputs before they are compared.
    """
    wanted = [o.name for o in reference.outputs()]
    truth: dict[int, dict[str, Array]] = {}

    def keep(sample: Any, outputs: Mapping[str, Array]) -> None:
        truth[sample.index] = dict(outputs)

    sweep(OrtSession(reference), _loads(data), keep, threads=threads)
    found = {}
    for pair in progress(pairs, "one layer at a time", len(pairs)):
        made = isolate(reference, pair)
        names = list(dict.fromkeys([made.real, made.quantized, *made.outputs]))
        session, sums = OrtSession(made.model, outputs=names), Sums()

        def see(sample: Any, outputs: Mapping[str, Array], made: Any = made, s: Any = sums) -> None:
            parts = {"layer": apart(outputs[made.real], outputs[made.quantized])}
            for name, given in zip(wanted, made.outputs, strict=True):
                real = truth[sample.index][name]
                if real.dtype.kind == "f" and real.shape == outputs[given].shape:
                    parts[f"output {name}"] = apart(scaled(real), scaled(outputs[given]))
            s.add(sample.index, parts)

        sweep(session, _loads(data), see, threads=threads)
        totals = {name: sqnr(*map(float, v)) for name, v in sums.total().items()}
        outputs = [v for name, v in totals.items() if name != "layer" and v is not None]
        found[pair.label] = Measured(totals["layer"], min(outputs, default=None))
    return found


def measure_together(
    quantized: Model,
    reference: Model,
    data: Held,
    *,
    threads: int,
    progress: Progress,
) -> dict[str, Measured]:
    """Return, by tensor of the reference, what the whole quantized model does up to it."""
    known = {v.name for node in reference.graph for v in node.outputs}
    chosen: dict[str, Layer] = {}
    for layer in layers_of(quantized):
        names = [name for name in layer.names if name in known]
        if names:
            chosen.setdefault(names[0], layer)
    session = OrtSession(quantized, outputs=[layer.fetched for layer in chosen.values()])
    other = OrtSession(reference, outputs=list(chosen))
    sums = Sums()

    def see(sample: Any, outputs: Mapping[str, Array]) -> None:
        truth = other.run(sample.feeds)
        parts = {}
        for name, layer in chosen.items():
            values = outputs[layer.fetched]
            if values.shape == truth[name].shape:
                parts[name] = np.append(_apart(truth[name], values, layer), values.size)
        sums.add(sample.index, parts)

    loads = progress(_loads(data), "all layers together", len(data))
    sweep(session, loads, see, threads=threads)
    return {
        name: Measured(cumulative=sqnr(float(v[0]), float(v[1])), saturated=float(v[2] / v[3]))
        for name, v in sums.total().items()
    }


def _apart(real: Array, values: Array, layer: Layer) -> Array:
    if layer.qparams is None:
        return np.append(apart(real, values), 0.0)
    low, high = layer.qparams.limits
    zero = int(layer.qparams.zero_point)
    ends = [end for end in (low, high) if end != zero]
    n = sum(int(np.count_nonzero(values == end)) for end in ends)
    return np.append(apart(real, dequantize(values, layer.qparams)), n)
