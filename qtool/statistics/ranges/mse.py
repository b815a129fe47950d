"""The range with the least expected squared error of quantization.

Two steps: a full grid of (low, high) pairs under a model of the error that costs O(1) a pair
(eq. 10 of docs/quantization.md), then a descent from the best of them under the exact error of
the histogram (eq. 9).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from qtool.model import TensorStatistics
from qtool.qparams import range_scale
from qtool.statistics.density import Density, density, error
from qtool.statistics.ranges.minmax import minmax

Float64 = npt.NDArray[np.float64]

FINE_LEVELS = 4096  # with more, the histogram cannot tell what clipping would gain
RATIO = 0.85  # of neighbouring limits in the full grid
FINALISTS = 24  # pairs of the grid that the exact error chooses among
STEPS = (0.06, 0.03, 0.015, 0.007)  # relative moves of a limit in the descent


def mse(statistics: TensorStatistics, *, levels: int, symmetric: bool) -> tuple[float, float]:
    """Return the (low, high) that minimises sum over elements of (x - Q(x))**2.

    Never worse than minmax by that measure; minmax's own beyond FINE_LEVELS levels.
    """
    widest = minmax(statistics, levels=levels, symmetric=symmetric)
    if levels > FINE_LEVELS or widest == (0.0, 0.0):
        return widest
    x = density(statistics)
    low, high = _descend(x, [x.hull, *_search(x, levels, symmetric)], levels, symmetric)
    # + 0.0 turns -0.0, which a limit times -1 leaves, into 0.0
    return math.ldexp(low, statistics.exponent) + 0.0, math.ldexp(high, statistics.exponent) + 0.0


def _search(x: Density, levels: int, symmetric: bool) -> list[tuple[float, float]]:
    """Return the best pairs of a geometric grid, under the model."""
    low, high = x.hull
    if symmetric:
        reach = _limits(max(-low, high))
        lows, highs = np.maximum(-reach, low), np.minimum(reach, high)
    else:
        lows, highs = np.broadcast_arrays(-_limits(-low)[:, None], _limits(high))
    order = np.argsort(_model(x, lows, highs, levels, symmetric), axis=None, kind="stable")
    best = order[:FINALISTS]
    return list(zip(lows.flat[best].tolist(), highs.flat[best].tolist(), strict=True))


def _limits(widest: float) -> Float64:
    """Return widest * RATIO**i, down to about one bin, or to half of widest if that is less."""
    if widest == 0:
        return np.zeros(1)
    n = max(math.ceil(math.log(widest) / -math.log(RATIO)), 4)
    return np.asarray(widest * RATIO ** np.arange(n), np.float64)


def _model(x: Density, lows: Float64, highs: Float64, levels: int, symmetric: bool) -> Float64:
    """Return the error of each pair under eq. 10, from running sums of 1, x and x**2.

    An element beyond a limit errs by its distance to it; one inside by scale**2 / 12 on average,
    or by its own square where it rounds to zero.
    """
    sums = _running_sums(x)
    scale = range_scale(lows, highs, 0, levels - 1, symmetric=symmetric)
    below, upto, every = sums(lows), sums(highs), sums(np.full_like(highs, np.inf))
    above = every - upto
    clipped = _squares(below, lows) + _squares(above, highs)
    to_zero = sums(np.minimum(scale / 2, highs)) - sums(np.maximum(-scale / 2, lows))
    rounded = upto[0] - below[0] - to_zero[0]
    return np.asarray(clipped + rounded * scale**2 / 12 + to_zero[2])


def _squares(sums: Float64, limit: Float64) -> Float64:
    """Return the sum of (x - limit)**2 from the sums of 1, x and x**2."""
    return np.asarray(sums[2] - 2 * limit * sums[1] + limit**2 * sums[0])


def _running_sums(x: Density) -> Callable[[Float64], Float64]:
    """Return the function limits -> sums of 1, x and x**2 over the elements below, zeros left out.

    The result has shape (3, *limits.shape). Within a bin it is the exact integral.
    """
    powers = np.stack([x.edges, x.edges**2 / 2, x.edges**3 / 3])
    heights = np.append(x.heights, 0.0)
    totals = np.cumsum(np.diff(powers, axis=1, prepend=powers[:, :1]) * np.roll(heights, 1), axis=1)
    atoms = np.stack([x.atom_counts, x.atom_counts * x.atoms, x.atom_counts * x.atoms**2])

    def sums(limits: Float64) -> Float64:
        t = np.clip(limits, x.edges[0], x.edges[-1])
        i = np.searchsorted(x.edges, t, "right") - 1
        parts = np.stack([t, t**2 / 2, t**3 / 3]) - powers[:, i]
        passed = x.atoms < np.asarray(limits)[..., None]
        return np.asarray(totals[:, i] + heights[i] * parts + np.moveaxis(passed @ atoms.T, -1, 0))

    return sums


def _descend(
    x: Density, pairs: list[tuple[float, float]], levels: int, symmetric: bool
) -> tuple[float, float]:
    """Return where ever smaller moves end under the exact error, from the best of the pairs."""
    best = min(_key(x, *pair, levels, symmetric) for pair in pairs)
    for step in STEPS:
        moves = _moves(x, *best[1], step, symmetric)
        best = min([best, *(_key(x, *pair, levels, symmetric) for pair in moves)])
    return best[1]


def _key(
    x: Density, low: float, high: float, levels: int, symmetric: bool
) -> tuple[float, tuple[float, float]]:
    return error(x, low, high, levels=levels, symmetric=symmetric), (low, high)


def _moves(
    x: Density, low: float, high: float, step: float, symmetric: bool
) -> Iterator[tuple[float, float]]:
    """Yield the pairs one move away, within the widest range."""
    widest = x.hull
    factors = (1 - step, 1.0, 1 + step)
    if symmetric:
        reach = max(-low, high)
        lows_highs = [(-reach * f, reach * f) for f in factors if f != 1]
    else:
        lows_highs = [(low * f, high * g) for f in factors for g in factors if f != 1 or g != 1]
    seen = {(low, high)}
    for moved in lows_highs:
        pair = max(moved[0], widest[0]), min(moved[1], widest[1])
        if pair not in seen:
            seen.add(pair)
            yield pair
