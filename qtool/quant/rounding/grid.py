"""The real values that the integers of some rows stand for."""

from __future__ import annotations

from collections.abc import Sequence
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

    def nearest(self, weight: Float64) -> Float64:
        """Return the integers nearest to weight (C, K)."""
        return np.clip(np.rint(weight / self.scale) + self.zero, self.low, self.high)

    def ordered(self, order: npt.NDArray[np.intp]) -> Grid:
        """Return the grid of the columns in this order."""
        scale, zero = (np.ascontiguousarray(v[:, order]) for v in (self.scale, self.zero))
        return Grid(scale, zero, self.low, self.high)

    def rows(self, part: npt.NDArray[np.intp]) -> Grid:
        """Return the grid of these rows."""
        scale, zero = (np.ascontiguousarray(v[part]) for v in (self.scale, self.zero))
        return replace(self, scale=scale, zero=zero)

    def uniform(self, scale: Float64, zero: Float64) -> Grid:
        """Return a grid with one scale, rounded to float32, and zero point for each row, (C,)."""
        made = np.maximum(scale, np.finfo(np.float32).tiny).astype(np.float32).astype(np.float64)
        spread = [np.repeat(v[:, None], self.scale.shape[1], axis=1) for v in (made, zero)]
        return replace(self, scale=spread[0], zero=spread[1])


def stacked(grids: Sequence[Grid]) -> Grid:
    """Return the grid of the rows of all, one below the other."""
    scale, zero = (np.concatenate([getattr(g, v) for g in grids]) for v in ("scale", "zero"))
    return replace(grids[0], scale=scale, zero=zero)
