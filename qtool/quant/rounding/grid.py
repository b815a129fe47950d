"""The real values that the integers of some rows stand for."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Grid:
    """real = scale * (q - zero), low <= q <= high; scale and zero are float64 (C, K).

    shared (K,) numbers the scales of a row: columns of one number have the same. None where the
    scales are to stay.
    """

    scale: Float64
    zero: Float64
    low: int
    high: int
    shared: npt.NDArray[np.int64] | None = None

    @property
    def bits(self) -> int:
        """How many bits the integers need."""
        return (self.high - self.low).bit_length()

    def real(self, q: Float64) -> Float64:
        """Return the values that integers (C, K) stand for."""
        return np.asarray(self.scale * (q - self.zero))

    def ordered(self, order: npt.NDArray[np.intp]) -> Grid:
        """Return the grid of the columns in this order."""
        scale, zero = (np.ascontiguousarray(v[:, order]) for v in (self.scale, self.zero))
        return Grid(scale, zero, self.low, self.high)

    def scaled(self, factor: Float64) -> Grid:
        """Return the grid with scales times factor (C, 1), rounded to float32."""
        scale = (self.scale * factor).astype(np.float32).astype(np.float64)
        return replace(self, scale=scale)
