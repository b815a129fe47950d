"""Range methods: from a tensor's statistics to the real range that its integers cover."""

from __future__ import annotations

from typing import Protocol

from qtool.model import TensorStatistics
from qtool.statistics.ranges.auto import auto
from qtool.statistics.ranges.entropy import entropy
from qtool.statistics.ranges.minmax import minmax
from qtool.statistics.ranges.mse import mse
from qtool.statistics.ranges.percentile import percentile


class RangeMethod(Protocol):
    """Chooses the range of one tensor.

    levels is the number of integers, symmetric whether their grid has zero in its middle. The
    result is real, within [minimum, maximum] widened to hold 0; low < high unless all elements
    are 0 or there are none.
    """

    def __call__(
        self, statistics: TensorStatistics, *, levels: int, symmetric: bool
    ) -> tuple[float, float]:
        """Return (low, high)."""


RANGES: dict[str, RangeMethod] = {
    "minmax": minmax,
    "percentile": percentile,
    "mse": mse,
    "entropy": entropy,
    "auto": auto,
}
