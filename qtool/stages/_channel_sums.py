"""Sums over the channels of a tensor, over samples in any order.

Shape legend: C channels, of axis 1.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from qtool.quant.equalize import ChannelStatistics

FIXED = 2.0**32  # means are summed in this unit, exactly, so that their order does not matter

Array = npt.NDArray[Any]


class ChannelSums:
    """Sums of one tensor's channels, over samples in any order."""

    def __init__(self) -> None:
        self.minimum: Any = np.inf
        self.maximum: Any = -np.inf
        self.sums: Any = 0  # (2, C): mean and mean square, in units of 1 / FIXED
        self.n = 0

    def add(self, values: Array) -> None:
        others = tuple(i for i in range(values.ndim) if i != 1)
        self.minimum = np.minimum(self.minimum, values.min(others))
        self.maximum = np.maximum(self.maximum, values.max(others))
        wide = values.astype(np.float64)
        moments = np.stack([wide.mean(others), np.square(wide).mean(others)])
        self.sums = self.sums + np.rint(moments * FIXED).astype(np.int64)
        self.n += 1

    def finish(self) -> ChannelStatistics:
        mean, square = np.asarray(self.sums / (FIXED * max(1, self.n)))
        low, high = (np.asarray(v, np.float64) for v in (self.minimum, self.maximum))
        return ChannelStatistics(low, high, mean, np.maximum(square - mean * mean, 0.0))
