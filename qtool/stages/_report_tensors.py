"""The tensors of the quantized model beside the float model's, over some samples, for a report."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from qtool.data import Samples
from qtool.errors import DataError
from qtool.model import Model, TensorStatistics
from qtool.qparams import QParams
from qtool.runtime import RUNTIMES
from qtool.runtime.sweep import sweep
from qtool.stages._layer_sums import Sums, compared
from qtool.stages._layers import Layer
from qtool.stages._report_weights import N_BINS, Bins
from qtool.stages._scoring import rows_of
from qtool.stages._verification import LayerReport, layer_reports
from qtool.stages.evaluate import loads_of
from qtool.stages.verify import WINDOW_BYTES, float_names, windows_of
from qtool.statistics.histogram import Histogram

Array = npt.NDArray[Any]
Progress = Callable[[Iterable[Any], str, int | None], Iterable[Any]]
ONNXRUNTIME = RUNTIMES["onnxruntime"]


@dataclass(frozen=True)
class Activation:
    """The values of one tensor in the float model, and the integers' range.

    range: the smallest and largest real number of the integers; clipped: the share of values
    that lie further than half a step outside. minimum, maximum, bins: of the report's samples;
    calibration: the counts of the calibration's samples in the same bins, () without any.
    """

    dtype: str
    scale: float | None
    zero_point: int | None
    range: tuple[float, float] | None
    minimum: float | None
    maximum: float | None
    clipped: float | None
    bins: Bins | None
    calibrated: bool


def measure(
    model: Model,
    reference: Model,
    layers: Sequence[Layer],
    data: Samples,
    *,
    n_samples: int,
    threads: int,
    progress: Progress,
) -> tuple[dict[str, LayerReport], dict[str, TensorStatistics]]:
    """Return what quantization did to each layer, and the statistics of its float tensor.

    Both over the first n_samples feeds, with onnxruntime, by the name of the layer; only layers
    that the reference has a tensor for. The result does not depend on threads.
    """
    names = float_names(layers, reference)
    shared = [layer for layer in layers if layer.name in names]
    sums: dict[str, Sums] = {}
    histograms: dict[str, Histogram] = {}
    windows = windows_of(shared, model, WINDOW_BYTES // (threads * data.batch))
    for number, window in enumerate(windows, 1):
        label = f"layers, window {number} of {len(windows)}"
        sums |= _window(
            model, reference, window, names, histograms, _first(data, n_samples), threads,
            lambda items, total, label=label: progress(items, label, total),  # type: ignore[misc]
        )  # fmt: skip
    kept = [layer for layer in shared if layer.name in sums]
    reports = {report.name: report for report in layer_reports(kept, sums)}
    return reports, {name: histogram.finish() for name, histogram in histograms.items()}


def _first(data: Samples, n: int) -> tuple[Iterator[Any], int | None]:
    loads, total = loads_of(data)
    return islice(loads, n), None if total is None else min(total, n)


def _window(
    model: Model,
    reference: Model,
    layers: Sequence[Layer],
    names: Mapping[str, str],
    histograms: dict[str, Histogram],
    loads: tuple[Iterator[Any], int | None],
    threads: int,
    track: Callable[[Iterable[Any], int | None], Iterable[Any]],
) -> dict[str, Sums]:
    """Return the sums of these layers over the samples, and fill their histograms."""
    inputs = {spec.name for spec in model.inputs()}
    wanted = [n for n in dict.fromkeys(names[layer.name] for layer in layers) if n not in inputs]
    session = ONNXRUNTIME(model, outputs=[layer.fetched for layer in layers], threads=1)
    other = ONNXRUNTIME(reference, outputs=wanted, threads=1) if wanted else None
    found: dict[int, dict[str, Sums]] = {}
    histograms |= {layer.name: Histogram() for layer in layers}

    def see(sample: Any, outputs: Mapping[str, Array]) -> None:
        real = {**({} if other is None else other.run(sample.feeds)), **sample.feeds}
        of_sample = found[sample.index] = {}
        for layer in layers:
            mine = rows_of(outputs[layer.fetched], sample)
            theirs = rows_of(real[names[layer.name]], sample)
            if mine.shape == theirs.shape:
                of_sample[layer.name] = compared(mine, mine, theirs, layer.qparams)
                count(histograms[layer.name], theirs)

    try:
        sweep(session, track(*loads), see, threads=threads)
    except BaseException:
        if other is not None:
            other.cancel()
        raise
    total: dict[str, Sums] = {}
    for index in sorted(found):  # in this order whichever thread was first
        for name, sums in found[index].items():
            total[name] = total[name].plus(sums) if name in total else sums
    return total


def count(histogram: Histogram, values: Array) -> None:
    """Count the finite values."""
    try:
        histogram.update(values)
    except DataError:
        return  # NaN or infinite in the float model: its error is then unknown, too


def activation(
    qparams: QParams | None, seen: TensorStatistics | None, known: TensorStatistics | None
) -> Activation | None:
    """Return what is known of one tensor; seen are the report's samples, known the calibration's.

    None where that is nothing.
    """
    if qparams is None and seen is None and known is None:
        return None
    whole = qparams is not None and qparams.scale.size == 1
    limits = None
    if qparams is not None and whole:
        step, at = float(qparams.scale), int(qparams.zero_point)
        limits = tuple((q - at) * step for q in qparams.limits)
    main = seen if seen is not None and seen.count else known
    has = main is not None and main.count > 0
    bins = _bins(main, known if main is seen else None) if has and main is not None else None
    return Activation(
        dtype="" if qparams is None else qparams.dtype,
        scale=float(qparams.scale) if qparams is not None and whole else None,
        zero_point=int(qparams.zero_point) if qparams is not None and whole else None,
        range=limits,  # type: ignore[arg-type]
        minimum=main.minimum if has and main is not None else None,
        maximum=main.maximum if has and main is not None else None,
        clipped=_clipped(main, limits, float(qparams.scale)) if (
            has and main is not None and limits is not None and qparams is not None) else None,
        bins=bins,
        calibrated=known is not None,
    )  # fmt: skip


def _bins(main: TensorStatistics, other: TensorStatistics | None) -> Bins:
    """Return main's counts in at most N_BINS bins of its grid, and other's in the same ones."""
    exponent = main.exponent
    parts = [main] if other is None or not other.count else [main, other]
    while True:
        spans = [_span(part, exponent) for part in parts]
        first, last = min(s[0] for s in spans), max(s[1] for s in spans)
        if last - first <= N_BINS and exponent >= max(part.exponent for part in parts):
            break
        exponent += 1
    counts = [_counts(part, exponent, first, last - first) for part in parts]
    edges = np.ldexp(np.arange(first, last + 1, dtype=np.float64), exponent)
    others = tuple(map(int, counts[1])) if len(counts) > 1 else ()
    return Bins(tuple(map(float, edges)), tuple(map(int, counts[0])), others)


def _span(part: TensorStatistics, exponent: int) -> tuple[int, int]:
    """Return the first bin and the one behind the last, at an exponent not under the part's."""
    shift = max(exponent - part.exponent, 0)
    return part.first >> shift, ((part.first + len(part.counts) - 1) >> shift) + 1


def _counts(part: TensorStatistics, exponent: int, first: int, n: int) -> Array:
    places = (
        np.arange(part.first, part.first + len(part.counts)) >> (exponent - part.exponent)
    ) - first  # noqa: E501
    counts = np.zeros(n, np.int64)
    np.add.at(counts, places, part.counts)
    return counts


def _clipped(known: TensorStatistics, limits: tuple[float, ...], step: float) -> float:
    """Return the share of values more than half a step outside, within one bin's width."""
    low, high = limits[0] - step / 2, limits[1] + step / 2
    if known.minimum >= low and known.maximum <= high:
        return 0.0
    edges = np.ldexp(np.arange(known.first, known.first + len(known.counts) + 1.0), known.exponent)
    below = np.concatenate([[0], np.cumsum(known.counts)]).astype(np.float64)
    inside = float(np.interp(high, edges, below) - np.interp(low, edges, below))
    return min(1.0, max(0.0, 1 - inside / known.count))
