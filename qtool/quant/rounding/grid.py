"""The real values that the integers of some rows stand for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Grid:
    """real = scale * (q - zero), low <= q <= high; scale and zero are float64 (C, K)."""

    scale: Float64
    zero: Float64
    low: int
    high: int

    def real(self, q: Float64) -> Float64:
        """Return the values that integers (C, K) stand for."""
        return np.asarray(self.scale * (q - self.zero))

    def ordered(self, order: npt.NDArray[np.intp]) -> Grid:
        """Return the grid of the columns in this order."""
        scale, zero = (np.ascontiguousarray(v[:, order]) for v in (self.scale, self.zero))
        return Grid(scale, zero, self.low, self.high)
