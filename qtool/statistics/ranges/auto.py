"""The range of least error, but only where clipping is worth it."""

from __future__ import annotations

import math

from qtool.model import TensorStatistics
from qtool.statistics.density import density, error
from qtool.statistics.ranges.minmax import minmax
from qtool.statistics.ranges.mse import mse


def auto(
    statistics: TensorStatistics, *, levels: int, symmetric: bool, gain_db: float = 0.5
) -> tuple[float, float]:
    """Return mse's range where it gains at least gain_db of SQNR over minmax's, else minmax's.

    Rare large values are often what the next layer looks at, so they are kept unless clipping
    them pays.
    """
    widest = minmax(statistics, levels=levels, symmetric=symmetric)
    best = mse(statistics, levels=levels, symmetric=symmetric)
    if best == widest:
        return widest
    x = density(statistics)
    errors = [
        error(
            x, *(math.ldexp(v, -statistics.exponent) for v in r), levels=levels, symmetric=symmetric
        )
        for r in (widest, best)
    ]
    return best if errors[1] <= errors[0] * 10 ** (-gain_db / 10) else widest
