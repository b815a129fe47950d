"""Scales and zero points of few bits that are worth rounding a row with.

Shape legend: C rows of K weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from qtool.quant.rounding.grid import Float64, Grid

SHORT = 32  # weights of a row up to which every candidate is rounded in full
FINALISTS = 4  # of a longer row
FEW = np.array((1.05, 1.0, 0.92, 0.85, 0.78, 0.7, 0.62, 0.55))
MANY = np.linspace(1.2, 0.45, 24)
RANGES = np.linspace(1.15, 0.55, 16)  # relative to what just covers a row


def candidates(weight: Float64, start: Grid, *, zeros: bool) -> Iterator[Grid]:
    """Yield grids for the rows, start first.

    zeros allows zero points of their own: all integers that the type has then count, and the two
    middle ones stand for 0; of short rows also those that a range from the least weight to the
    largest needs. Scales that clip are among them.
    """
    yield start
    low, high, short = start.low, start.high, weight.shape[1] <= SHORT
    middle = (low + high + 1) // 2
    reach = np.abs(weight).max(axis=1)
    half = (high - low) / 2
    for factor in MANY if short else FEW:
        for at in (middle, middle - 1) if zeros else (None,):
            zero = start.zero[:, 0] if at is None else np.full(len(weight), float(at))
            yield start.uniform(reach / half * factor, zero)
    least, most = np.minimum(weight.min(axis=1), 0), np.maximum(weight.max(axis=1), 0)
    for factor in RANGES if short and zeros else ():
        scale = np.maximum((most - least) / (high - low) * factor, np.finfo(np.float32).tiny)
        zero_point = np.rint(low - least * factor / scale)
        for apart in (-1, 0, 1):
            yield start.uniform(scale, np.clip(zero_point + apart, low, high))


def likely(weight: Float64, diagonal: Float64, grids: Sequence[Grid]) -> list[Grid]:
    """Return FINALISTS grids, the best of each row where only the diagonal (K,) of h counts."""
    errors = [(np.square(weight - g.real(g.nearest(weight))) * diagonal).sum(-1) for g in grids]
    order = np.argsort(np.stack(errors), axis=0, kind="stable")[:FINALISTS]
    scales, zeros = (np.stack([v[:, 0] for v in vs]) for vs in (
        [g.scale for g in grids], [g.zero for g in grids],
    ))  # fmt: skip
    rows = np.arange(len(weight))
    return [grids[0].uniform(scales[one, rows], zeros[one, rows]) for one in order]
