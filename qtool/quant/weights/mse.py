"""The range whose quantized weights have the least squared error: outliers may be clipped.

The range of minmax is shrunk by a common factor r, per channel. r is searched on a coarse grid
and then twice on a finer one around the best so far. Errors are summed as integers, in units of
2**-12 of a step, so that the choice depends neither on the order of summation nor on the CPU.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from qtool.qparams import Float32, QParams, from_range, limits
from qtool.quant.weights.minmax import extremes

UNIT = 2.0**12  # per quantization step
CHUNK = 1 << 21  # weights that are in flight at a time
FACTORS = np.linspace(0.3, 1.0, 36)  # the last one is minmax itself
REFINEMENTS = (0.005, 0.00125)  # steps of the finer grids, 4 to either side

Factors = npt.NDArray[np.float64]


def mse(weight: Float32, *, dtype: str, axis: int | None, symmetric: bool, narrow: bool) -> QParams:
    """Return the qparams, per slice along axis, that minimise sum (w - scale*(q - zero))**2."""
    rows = weight.reshape(1, -1) if axis is None else np.moveaxis(weight, axis, 0)
    rows = rows.reshape(len(rows), weight.size // max(1, len(rows)))
    low, high = extremes(rows, 0)
    best = np.ones(len(rows))
    if rows.size:
        scheme = {"dtype": dtype, "symmetric": symmetric, "narrow": narrow}
        for first, last in _chunks(*rows.shape):
            ends = low[first:last], high[first:last]
            best[first:last] = _search(rows[first:last], ends, scheme)
    low, high = _shrunk((low, high), best)
    if axis is None:
        low, high = low[0], high[0]
    return from_range(low, high, dtype, symmetric=symmetric, narrow=narrow, axis=axis)


def _search(rows: Float32, ends: tuple[Float32, Float32], scheme: dict[str, object]) -> Factors:
    """Return the best factor of each row; the largest of equally good ones."""
    best = np.ones(len(rows))
    least = _error(rows, _shrunk(ends, best), scheme)
    for offsets in (FACTORS[-2::-1] - 1.0, *(k * _SIDES for k in REFINEMENTS)):
        centre = best.copy()
        for offset in offsets:
            factor = np.clip(centre + offset, 0.05, 1.0)
            error = _error(rows, _shrunk(ends, factor), scheme)
            better = error < least
            best, least = np.where(better, factor, best), np.where(better, error, least)
    return best


_SIDES = np.array([4, 3, 2, 1, -1, -2, -3, -4], np.float64)


def _shrunk(ends: tuple[Float32, Float32], factor: Factors) -> tuple[Float32, Float32]:
    low, high = ((end.astype(np.float64) * factor).astype(np.float32) for end in ends)
    return low, high


def _error(rows: Float32, ends: tuple[Float32, Float32], scheme: dict[str, object]) -> Factors:
    """Return the squared error of each row in units of the weights, float64 of shape (C,)."""
    qparams = from_range(*ends, axis=0, **scheme)  # type: ignore[arg-type]
    low, high = limits(qparams.dtype, narrow=qparams.narrow)
    scale, zero = qparams.scale[:, None], qparams.zero_point[:, None].astype(np.float32)
    steps = rows / scale
    error = (steps - np.clip(np.rint(steps), low - zero, high - zero)) * np.float32(UNIT)
    fixed = np.rint(error).astype(np.int64)
    total = np.einsum("ij,ij->i", fixed, fixed).astype(np.float64)
    unit = qparams.scale.astype(np.float64) / UNIT
    return np.asarray(total * unit * unit)


def _chunks(n_rows: int, row_size: int) -> list[tuple[int, int]]:
    n = max(1, CHUNK // max(1, row_size))
    return [(first, min(first + n, n_rows)) for first in range(0, n_rows, n)]
