"""The range that leaves out the most extreme elements, by count."""

from __future__ import annotations

import math

import numpy as np

from qtool.errors import UsageError
from qtool.model import TensorStatistics
from qtool.statistics.density import Density, density
from qtool.statistics.ranges.minmax import minmax


def percentile(
    statistics: TensorStatistics, *, levels: int, symmetric: bool, percent: float = 99.99
) -> tuple[float, float]:
    """Return the range between the (100 - percent) / 2 and the (100 + percent) / 2 percentiles.

    Within a bin the elements count as evenly spread. Where that would leave only zeros, as with
    one spike in an otherwise empty tensor, the range is minmax's.

    Raises:
        UsageError: percent is not above 50 and at most 100.
    """
    if not 50 < percent <= 100:
        raise UsageError(f"percentile {percent:g} is out of range: choose one above 50, up to 100")
    widest = minmax(statistics, levels=levels, symmetric=symmetric)
    if widest == (0.0, 0.0):
        return widest
    x = density(statistics)
    tail = (1 - percent / 100) / 2
    low = math.ldexp(min(_quantile(x, tail), 0.0), statistics.exponent)
    high = math.ldexp(max(_quantile(x, 1 - tail), 0.0), statistics.exponent)
    low, high = max(low, widest[0]), min(high, widest[1])
    return (low, high) if low < high else widest


def _quantile(x: Density, fraction: float) -> float:
    """Return the value below which a fraction of the elements lies, linear between ranks."""
    values = np.concatenate([x.edges, x.atoms, [0.0]])
    sizes = np.concatenate([np.zeros(len(x.edges)), x.atom_counts, [x.zeros]])
    order = np.argsort(values, kind="stable")
    values, sizes = values[order], sizes[order]
    slabs = np.concatenate([[0.0], np.cumsum(x.counts)])
    before = np.interp(values, x.edges, slabs) + np.cumsum(sizes) - sizes
    # Each value occurs twice: where its own elements begin, and where they end.
    ranks = np.stack([before, before + sizes], axis=1).ravel()
    rank = fraction * (x.total - 1) + 0.5
    return float(np.interp(rank, ranks, np.repeat(values, 2)))
