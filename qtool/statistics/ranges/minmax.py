"""The range that clips nothing."""

from __future__ import annotations

from qtool.model import TensorStatistics


def minmax(statistics: TensorStatistics, *, levels: int, symmetric: bool) -> tuple[float, float]:
    """Return the exact minimum and maximum, widened to hold 0."""
    return min(statistics.minimum, 0.0) + 0.0, max(statistics.maximum, 0.0) + 0.0  # no -0.0
