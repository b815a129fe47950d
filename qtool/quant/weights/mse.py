"""The range whose quantized weights have the least squared error: outliers may be clipped.

The range of minmax is shrunk by a common factor r, per channel. For long channels a model of the
error finds r: weights inside the range err like uniform noise, step**2 / 12 each, and those
outside by how far they are outside. Short ones try every r. Then the exact error decides between
the neighbours, in ever smaller steps. Errors are summed as integers, in units of 2**-10 of a step,
so that the choice depends neither on the order of summation nor on the CPU.

Shape legend: rows is a weight as (C, n), one row per channel; a factor is float64 of shape (C,).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qtool.qparams import Float32, QParams, from_range, limits
from qtool.quant.weights.minmax import extremes

UNIT = 2.0**10  # per quantization step
CHUNK = 1 << 17  # weights that are in flight at a time: they stay in the cache
LONG = 256  # weights per channel from which on the model of the error is good
LEAST = 0.3  # the smallest factor tried at first
COARSE = 0.02
FACTORS = LEAST + COARSE * np.arange(35)  # with 1.0, which is minmax itself
REFINEMENTS = (COARSE, 0.01, 0.005, 0.0025)  # to either side of the best so far

Factors = npt.NDArray[np.float64]


def mse(weight: Float32, *, dtype: str, axis: int | None, symmetric: bool, narrow: bool) -> QParams:
    """Return the qparams, per slice along axis, that minimise sum (w - scale*(q - zero))**2."""
    rows = weight.reshape(1, -1) if axis is None else np.moveaxis(weight, axis, 0)
    low, high = extremes(weight, axis)
    low, high = low.reshape(-1), high.reshape(-1)
    best = np.ones(len(rows))
    for part in _parts(len(rows), weight.size):
        piece = np.ascontiguousarray(rows[part])
        piece = piece.reshape(len(piece), weight.size // max(1, len(rows)))
        search = _Search(piece, low[part], high[part], dtype, symmetric, narrow)
        best[part] = search.best()
    low, high = _shrunk(low, best), _shrunk(high, best)
    if axis is None:
        low, high = low[0], high[0]
    return from_range(low, high, dtype, symmetric=symmetric, narrow=narrow, axis=axis)


@dataclass(frozen=True)
class _Search:
    """Some rows of a weight, the ends of their ranges, and how they are quantized."""

    rows: Float32
    low: Float32
    high: Float32
    dtype: str
    symmetric: bool
    narrow: bool

    def best(self) -> Factors:
        """Return the best factor of each row; the largest of equally good ones."""
        best = np.ones(len(self.rows))
        least = self._error(best)
        if self.rows.shape[1] >= LONG:
            candidates = [self._modelled()]
        else:
            candidates = [np.full(len(best), factor) for factor in FACTORS[::-1]]
        for candidate in candidates:
            best, least = self._better(candidate, best, least)
        for step in REFINEMENTS:
            centre = best
            for offset in (step, -step):
                candidate = np.clip(centre + offset, LEAST / 2, 1.0)
                best, least = self._better(candidate, best, least)
        return best

    def _better(self, candidate: Factors, best: Factors, least: Factors) -> tuple[Factors, Factors]:
        error = self._error(candidate)
        better = error < least
        return np.where(better, candidate, best), np.where(better, error, least)

    def _qparams(self, factor: Factors) -> QParams:
        return from_range(
            _shrunk(self.low, factor),
            _shrunk(self.high, factor),
            self.dtype,
            symmetric=self.symmetric,
            narrow=self.narrow,
            axis=0,
        )

    def _error(self, factor: Factors) -> Factors:
        """Return the exact squared error of each row with its range shrunk by its factor."""
        qparams = self._qparams(factor)
        low, high = limits(self.dtype, narrow=self.narrow)
        zero = qparams.zero_point[:, None].astype(np.float32)
        steps = self.rows / qparams.scale[:, None]
        q = np.rint(steps)
        np.clip(q, low - zero, high - zero, out=q)
        steps -= q
        steps *= np.float32(UNIT)
        np.rint(steps, out=steps)
        total = np.einsum("ij,ij->i", steps, steps, dtype=np.float64)
        unit = qparams.scale.astype(np.float64) / UNIT
        return np.asarray(total * unit * unit)

    def _modelled(self) -> Factors:
        """Return the factor of each row that the model of the error finds best.

        A weight at t times the end of its range is clipped by every factor r < t, and then off by
        (t - r) times that end. So the sums over t of 1, t and t**2 above each factor suffice.
        """
        low, high = -self.low.astype(np.float64), self.high.astype(np.float64)
        if self.symmetric:
            low = high = np.maximum(low, high)
        sums = np.zeros((3, len(self.rows), len(FACTORS)))
        for sign, end in ((1, high), (-1, low)):
            threshold = (LEAST * end * sign).astype(np.float32)[:, None]
            row, column = np.nonzero(self.rows * sign > threshold * sign)
            t = np.abs(self.rows[row, column].astype(np.float64)) / end[row]
            bins = np.clip(((t - LEAST) / COARSE).astype(np.int64), 0, len(FACTORS) - 1)
            place = row * len(FACTORS) + bins
            for power in range(3):
                found = np.bincount(place, end[row] ** 2 * t**power, sums[0].size)
                sums[power] += found.reshape(sums[0].shape)
        above = np.cumsum(sums[:, :, ::-1], axis=2)[:, :, ::-1]
        clipped = above[2] - 2 * FACTORS * above[1] + FACTORS**2 * above[0]
        inside = np.square(self._qparams(np.ones(len(low))).scale.astype(np.float64))[:, None]
        rounding = self.rows.shape[1] / 12 * inside * FACTORS**2
        return np.asarray(FACTORS[np.argmin(clipped + rounding, axis=1)])


def _shrunk(end: Float32, factor: Factors) -> Float32:
    return np.asarray(end.astype(np.float64) * factor, np.float32)


def _parts(n_rows: int, size: int) -> Iterator[slice]:
    """Yield pieces of the rows of about CHUNK weights each."""
    step = max(1, CHUNK * n_rows // max(1, size))
    yield from (slice(first, first + step) for first in range(0, n_rows, step))
