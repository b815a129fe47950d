"""What a layer is fed, and what it should give: the sums that a least squares fit needs.

    R = sum e x^T,  H = sum x x^T        e: what the output lacks, x: the input, with 1 behind it

x are integers (of a quantized tensor, less its zero point), e is rounded to a fixed unit: so the
sums are exact in float64, whatever order or machine they are made in. Shape legend: as in
qtool/hessian.py; n positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from qtool import _native
from qtool.hessian import damped, inverse_factor

Float64 = npt.NDArray[np.float64]

FOLDS = 2  # the samples are split into these, to tell what carries over to others
RIDGES = (1e-3, 1e-2, 0.1, 0.3, 1.0, 3.0)  # of the mean of H's diagonal
SHARES = 64  # steps of the share of H beside its diagonal that is believed
DEEP = 1536  # weights of a row from which on one ridge has to do
RIDGE = 1.0  # that one
UNIT_BITS = 18  # of the largest e: with 16-bit x and 2**18 positions the sums stay below 2**53


@dataclass
class Moments:
    """Sums over the positions of all samples, for each fold; e in steps of unit."""

    groups: int
    channels: int  # of one group
    depth: int
    unit: float
    h: Float64 = field(init=False)  # (FOLDS, groups, depth + 1, depth + 1)
    r: Float64 = field(init=False)  # (FOLDS, groups, channels, depth + 1)

    def __post_init__(self) -> None:
        """Start at zero."""
        size = self.depth + 1
        self.h = np.zeros((FOLDS, self.groups, size, size))
        self.r = np.zeros((FOLDS, self.groups, self.channels, size))

    def of(self, x: Float64, missing: Float64) -> tuple[Float64, Float64]:
        """Return the sums of one sample: x (groups, n, depth), missing (groups, channels, n)."""
        one = np.ones((*x.shape[:2], 1))
        wide = np.concatenate([x, one], axis=2)
        steps = np.rint(missing / self.unit)
        return wide.transpose(0, 2, 1) @ wide, steps @ wide

    def add(self, fold: int, sums: tuple[Float64, Float64]) -> None:
        """Add what `of` returned."""
        self.h[fold] += sums[0]
        self.r[fold] += sums[1]


@dataclass(frozen=True)
class Fit:
    """Weights (G, C, K) to come close to, the form of the error, and the bias that goes with it.

    In units of the integers x. mean (G, K) is of x, missing (G, C) the mean of e.
    """

    change: Float64
    h: Float64
    mean: Float64
    missing: Float64
    ridge: float | None  # None where no change would carry over


def fit(moments: Moments, *, centre: bool) -> Fit:
    """Return the change of the weights that brings the outputs closest to what they should be.

    change = R (H + ridge)^-1, each ridge tried on the fold that the change was not made from:
    where none helps there, nothing changes. What is best for one fold is as much for the sums of
    all, so that relative to these it is less. centre says that a bias takes up the means.
    """
    total = _parts(moments.h.sum(0), moments.r.sum(0), centre=centre)
    folds = [_parts(moments.h[i], moments.r[i], centre=centre) for i in range(FOLDS)]
    ridge = _best_ridge(folds)
    change = np.zeros_like(total.r) if ridge is None else _solved(total, ridge / FOLDS)
    unit, h = moments.unit, _shrunk(total.h, [part.h for part in folds])
    return Fit(change * unit, h, total.mean, total.missing * unit, ridge)


@dataclass(frozen=True)
class _Parts:
    """H and R without the 1, centred or not, and the means."""

    h: Float64
    r: Float64
    mean: Float64
    missing: Float64


def _parts(h: Float64, r: Float64, *, centre: bool) -> _Parts:
    count = np.maximum(h[:, -1:, -1], 1.0)  # (G, 1)
    mean, missing = h[:, -1, :-1] / count, r[:, :, -1] / count
    inner, cross = h[:, :-1, :-1], r[:, :, :-1]
    if centre:
        inner = inner - count[..., None] * mean[:, :, None] * mean[:, None, :]
        cross = cross - count[..., None] * missing[:, :, None] * mean[:, None, :]
    return _Parts(inner, cross, mean, missing)


def _shrunk(h: Float64, folds: Sequence[Float64]) -> Float64:
    """Return h with less beside the diagonal: what the folds' (G, K, K) tell of each other.

    Rounding takes correlations at their word; those of few positions hold on these only. The
    share that is kept is the regression of one fold's elements on the other's.
    """
    diagonal = np.arange(h.shape[-1])
    beside = [one.copy() for one in folds]
    for one in beside:
        one[:, diagonal, diagonal] = 0.0
    each = [float(np.square(one).sum()) for one in beside]
    if not all(each):
        return h
    both = float(np.prod(np.stack(beside), axis=0).sum())
    share = np.rint(np.clip(both / np.mean(each), 0.0, 1.0) * SHARES) / SHARES
    result = h * share
    result[:, diagonal, diagonal] = h[:, diagonal, diagonal]
    return np.asarray(result)


def _best_ridge(folds: Sequence[_Parts]) -> float | None:
    """Return the ridge whose change of the weights helps most in the other fold."""
    deep = folds[0].h.shape[-1] > DEEP
    ridges: tuple[float, ...] = (RIDGE,) if deep else RIDGES
    gains = [
        sum(_gain(_solved(here, ridge), there) for here, there in (folds, folds[::-1]))
        for ridge in ridges
    ]
    best = int(np.argmax(gains))
    return ridges[best] if gains[best] > 0 else None


def _solved(parts: _Parts, ridge: float) -> Float64:
    form = damped(parts.h, ridge)
    return np.stack([
        np.asarray(_native.solve_rows(inverse_factor(h), np.ascontiguousarray(r)))
        for h, r in zip(form, parts.r, strict=True)
    ])  # fmt: skip


def _gain(change: Float64, parts: _Parts) -> float:
    """Return by how much a change of the weights lowers the sum of squares of e."""
    spent = sum(
        float(
            np.asarray(_native.row_errors(np.ascontiguousarray(d), np.ascontiguousarray(h))).sum()
        )
        for d, h in zip(change, parts.h, strict=True)
    )
    return 2 * float((change * parts.r).sum()) - spent
