"""describe: the values of one tensor, as numbers and as a histogram.

Shape legend: a histogram has n bins between n + 1 edges.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any

import numpy as np
import numpy.typing as npt

from qtool.errors import ModelError, QtoolError, UsageError
from qtool.model import Json, Model, TensorStatistics, dtype_name
from qtool.quant.encodings import Encoding, encodings
from qtool.shapes import all_values, shape_of, tensor_shape
from qtool.stages.inspect import constants, plain

PERCENTILES = (0.01, 0.1, 1.0, 25.0, 50.0, 75.0, 99.0, 99.9, 99.99)
N_BINS = 32
FINE = 2048 * N_BINS  # bins from which the percentiles of large weights come
CHUNK = 1 << 22  # elements looked at together

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Description:
    """The values of one tensor: of a weight as it is stored, of an activation as calibrated."""

    name: str
    kind: str  # "weight" or "activation"
    dtype: str
    shape: tuple[int | str | None, ...] | None
    source: str  # "values", or which samples
    count: int  # finite elements
    n_not_finite: int | None  # None: unknown
    n_zeros: int
    n_distinct: int | None
    minimum: float
    maximum: float
    percentiles: tuple[tuple[float, float], ...]  # (percent, value)
    edges: tuple[float, ...]
    counts: tuple[int, ...]
    encoding: Encoding | None = None
    n_clipped: float | None = None  # elements outside the encoding's range, from the histogram

    def to_json(self) -> dict[str, Json]:
        """Return the description as a JSON object."""
        given = vars(self) | {
            "encoding": None if self.encoding is None else self.encoding.to_json()
        }
        return {
            **given,
            "shape": None if self.shape is None else list(self.shape),
            "percentiles": {f"{p:g}": value for p, value in self.percentiles},
            "edges": list(self.edges),
            "counts": list(self.counts),
        }


def describe(model: Model, name: str) -> Description:
    """Return the distribution of the values of the tensor called name.

    Raises:
        UsageError: there is no such tensor.
        ModelError: it is an activation without statistics, or it holds no numbers.
    """
    for found, tensor, _ in constants(model):
        if found == name:
            values = plain(tensor.numpy())
            if values is None:
                raise ModelError(f"tensor {name!r} holds {dtype_name(tensor.dtype)}, no numbers")
            made = _of_values(name, values, tensor_shape(tensor), dtype_name(tensor.dtype))
            return _with_encoding(made, model)
    statistics = None if model.statistics is None else model.statistics.tensors.get(name)
    if statistics is not None:
        return _with_encoding(_of_statistics(name, statistics, model), model)
    raise _absent(model, name)


def _absent(model: Model, name: str) -> QtoolError:
    known = [value.name for value in all_values(model) if value.name]
    if name in known:
        return ModelError(
            f"the model has no statistics of {name!r}; make some with "
            f"qtool calibrate --input MODEL --data SAMPLES --output m.qtm"
        )
    close = get_close_matches(name, known, n=3)
    hint = f"did you mean {' or '.join(map(repr, close))}?" if close else "see qtool inspect"
    return UsageError(f"no tensor of {len(known)} is named {name!r}; {hint}")


def _of_values(
    name: str, values: npt.NDArray[Any], shape: tuple[int, ...], dtype: str
) -> Description:
    """Describe a weight in pieces of CHUNK elements, so that it may be larger than memory."""
    count, n_zeros, low, high = 0, 0, np.inf, -np.inf
    for part in _finite(values):
        count, n_zeros = count + part.size, n_zeros + int(np.count_nonzero(part == 0))
        low, high = min(low, float(part.min())), max(high, float(part.max()))
    low, high = (low, high) if count else (0.0, 0.0)
    edges = _edges(low, high, values.dtype.kind in "iu")
    counts = np.zeros(len(edges) - 1, np.int64)
    for part in _finite(values):
        counts += np.histogram(part, edges)[0]
    n_distinct = None
    if 0 < count <= CHUNK:
        whole = np.concatenate([*_finite(values)])
        quantiles, n_distinct = np.percentile(whole, PERCENTILES), int(np.unique(whole).size)
    else:
        below = np.concatenate([[0], np.cumsum(counts)])
        quantiles = np.interp(np.array(PERCENTILES) / 100 * count, below, edges)
    coarse = edges[:: FINE // N_BINS] if len(counts) == FINE else edges
    return Description(
        name,
        "weight",
        dtype,
        shape,
        "values",
        count,
        int(values.size) - count,
        n_zeros,
        n_distinct,
        low,
        high,
        tuple((p, float(v)) for p, v in zip(PERCENTILES, quantiles, strict=True)),
        tuple(map(float, coarse)),
        tuple(map(int, counts.reshape(len(coarse) - 1, -1).sum(axis=1))),
    )


def _finite(values: npt.NDArray[Any]) -> Iterator[Float64]:
    """Yield the finite elements as float64, a piece at a time; no empty piece."""
    flat = values.reshape(-1)
    for start in range(0, flat.size, CHUNK):
        part = flat[start : start + CHUNK].astype(np.float64)
        part = part[np.isfinite(part)]
        if part.size:
            yield part


def _edges(low: float, high: float, integers: bool) -> Float64:
    """Return the edges of FINE bins; integers get at most N_BINS bins of whole numbers."""
    if integers and max(-low, high) < 2**50:
        n_values = int(high - low) + 1
        step = -(-n_values // N_BINS)
        return low - 0.5 + step * np.arange(-(-n_values // step) + 1, dtype=np.float64)
    if low == high:
        return np.array([low, np.nextafter(high, np.inf)])
    return np.linspace(low, high, FINE + 1)


def _of_statistics(name: str, known: TensorStatistics, model: Model) -> Description:
    value = next((v for v in all_values(model) if v.name == name), None)
    of = model.statistics
    assert of is not None
    edges, counts = _rebinned(known)
    return Description(
        name,
        "activation",
        "" if value is None or value.dtype is None else dtype_name(value.dtype),
        None if value is None else shape_of(value),
        f"{of.n_samples} {'' if of.source == 'samples' else of.source + ' '}samples",
        known.count,
        None,
        known.n_zeros,
        None,
        known.minimum,
        known.maximum,
        tuple((p, _percentile(known, p)) for p in PERCENTILES),
        tuple(map(float, edges)),
        tuple(map(int, counts)),
    )


def _rebinned(known: TensorStatistics) -> tuple[Float64, npt.NDArray[np.int64]]:
    """Return at most 2 * N_BINS bins, each made of a power of two of the histogram's own.

    Their edges are whole multiples of their width, as the histogram's are, so 0 is an edge.
    """
    exponent, first, counts = known.exponent, known.first, known.counts
    while len(counts) > N_BINS:
        if first % 2:
            counts, first = np.concatenate([[0], counts]), first - 1
        if len(counts) % 2:
            counts = np.concatenate([counts, [0]])
        counts, first, exponent = counts.reshape(-1, 2).sum(axis=1), first // 2, exponent + 1
    edges = np.ldexp(np.arange(first, first + len(counts) + 1, dtype=np.float64), exponent)
    return edges, counts


def _percentile(known: TensorStatistics, percent: float) -> float:
    """Return the value that percent of the elements do not exceed, within one bin's width."""
    edges, below = _cumulative(known)
    if not known.count:
        return 0.0
    found = float(np.interp(known.count * percent / 100, below, edges))
    return min(max(found, known.minimum), known.maximum)


def _cumulative(known: TensorStatistics) -> tuple[Float64, Float64]:
    """Return increasing values, and how many elements are below each; the zeros are all at 0."""
    n = len(known.counts)
    edges = np.ldexp(np.arange(known.first, known.first + n + 1, dtype=np.float64), known.exponent)
    below = np.concatenate([[0], np.cumsum(known.counts)]).astype(np.float64)
    if known.n_zeros:
        at = -known.first  # the bin that starts at 0
        edges, below = np.insert(edges, at + 1, 0.0), np.insert(below, at + 1, below[at])
        below[at + 1] += known.n_zeros
    return np.clip(edges, known.minimum, known.maximum), below


def _with_encoding(made: Description, model: Model) -> Description:
    """Add how the tensor is quantized and, for real values, what lies outside of its range."""
    matches = [e for e in encodings(model) if made.name in (e.name, e.real)]
    if not matches:
        return made
    encoding = matches[0]
    if encoding.range is None or made.kind == "weight" or model.statistics is None:
        return replace(made, encoding=encoding)
    low, high = encoding.range
    half = (encoding.scale or (0.0, 0.0))[0] / 2
    edges, below = _cumulative(model.statistics.tensors[made.name])
    inside = float(np.interp(high + half, edges, below) - np.interp(low - half, edges, below))
    return replace(made, encoding=encoding, n_clipped=max(0.0, made.count - inside))
