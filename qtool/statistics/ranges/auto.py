"""The range of least error, but only where clipping is worth it."""

from __future__ import annotations

from qtool.model import TensorStatistics
from qtool.statistics.density import sqnr_db
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
    clipped, whole = (
        sqnr_db(statistics, *limits, levels=levels, symmetric=symmetric)
        for limits in (best, widest)
    )
    return best if clipped >= whole + gain_db else widest
