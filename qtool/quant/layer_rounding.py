"""The integers of a layer's weight by the error of its output; see docs/accuracy.md.

Shape legend: as in qtool/hessian.py; N is C, all output channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from qtool import _native, hessian
from qtool.model import GramStatistics
from qtool.qparams import Float32, QParams, broadcast, limits
from qtool.quant.rounding import ROUNDINGS
from qtool.quant.rounding.candidates import SHORT, candidates, likely
from qtool.quant.rounding.form import Form
from qtool.quant.rounding.grid import Float64, Grid, stacked
from qtool.quant.rounding.scales import refit
from qtool.registry import lookup

FEW_BITS = 6  # up to which other scales than the one that clips nothing can pay
WORK = 1 << 26  # multiplications from which on a group is worth threads


@dataclass(frozen=True)
class Rounded:
    """The integers of a weight, in its layout, with the scale that they are for.

    shift (N,) is what the bias has to grow by to keep the mean of the output; None where the
    layers have no bias to correct.
    """

    qparams: QParams
    integers: npt.NDArray[np.int32]
    shift: Float64 | None


class WeightRounder(Protocol):
    """Chooses the integers of a weight by more than its values."""

    def __call__(
        self, weight: Float32, qparams: QParams, users: Sequence[ir.Node], *, corrects: bool
    ) -> Rounded | None:
        """Return the integers of a weight that all users read alike; None if it knows no better.

        corrects says that all users have a bias which will take the shift.
        """
        ...


@dataclass(frozen=True)
class Spread:
    """Scales and zero points spread over the elements of a weight, in its layout.

    which says of each element which of the scales it has.
    """

    scale: Float64
    zero: Float64
    which: npt.NDArray[np.int64]

    def stored(self, values: Float64, n_scales: int) -> Float64:
        """Return scales or zero points, (n_scales,), from those of all elements."""
        found = np.zeros(n_scales)
        found[self.which.reshape(-1)] = values.reshape(-1)
        return found


@dataclass(frozen=True)
class Found:
    """Scales, zero points and integers of all elements of a weight, and the shift of the bias."""

    scale: Float64
    zero: Float64
    integers: npt.NDArray[np.int32]
    shift: Float64 | None


@dataclass(frozen=True)
class Search:
    """How the integers of a weight are found, in this many threads.

    scales also looks for scales that make less of the output's error, zeros for zero points.
    """

    method: str = "descent"
    scales: bool = False
    zeros: bool = False
    threads: int = 1

    def __call__(
        self, rows: Float64, h: Float64, start: Sequence[Grid]
    ) -> list[tuple[Float64, Grid]]:
        """Return integers and grid of each group, given rows (G, C, K) and h (G, K, K)."""
        forms = [Form(one) for one in h]
        parts = np.array_split(np.arange(rows.shape[1]), self._n_parts(rows))
        jobs = [(g, part) for g in range(len(rows)) for part in parts]

        def work(job: tuple[int, npt.NDArray[np.intp]]) -> tuple[Float64, Grid]:
            g, part = job
            return self.best(rows[g][part], forms[g], start[g].rows(part))

        if self.threads == 1 or rows.size * rows.shape[2] < WORK:
            done = [work(job) for job in jobs]
        else:
            with ThreadPoolExecutor(self.threads) as pool:
                done = list(pool.map(work, jobs))
        groups = [done[i : i + len(parts)] for i in range(0, len(done), len(parts))]
        return [
            (np.concatenate([q for q, _ in group]), stacked([grid for _, grid in group]))
            for group in groups
        ]

    def best(self, weight: Float64, form: Form, start: Grid) -> tuple[Float64, Grid]:
        """Return the integers of rows (C, K) and their grid, the best of each row."""
        grids, short = [start], weight.shape[1] <= SHORT
        if self._searches(start):
            grids = list(candidates(weight, start, zeros=self.zeros))
            grids = grids if short else likely(weight, np.diagonal(form.h), grids)
        rounding = lookup(ROUNDINGS, self.method, "rounding")
        wide, grid = np.concatenate([weight] * len(grids)), stacked(grids)
        q = rounding(wide, form, grid)
        if short and grid.shared is not None:
            q, grid = refit(wide, form.h, q, grid)
        q, grid = _least(weight, form, q, grid)
        return (q, grid) if short or grid.shared is None else refit(weight, form.h, q, grid)

    def _searches(self, start: Grid) -> bool:
        return start.shared is not None and not start.shared.any()  # blocks are only refitted

    def _n_parts(self, rows: Float64) -> int:
        return min(self.threads, rows.shape[1]) if len(rows) < self.threads else 1


def _least(weight: Float64, form: Form, q: Float64, grid: Grid) -> tuple[Float64, Grid]:
    """Return of several candidates for each row, one set below the other, the best."""
    if len(q) == len(weight):
        return q, grid
    wide = np.concatenate([weight] * (len(q) // len(weight)))
    error = np.asarray(_native.row_errors(wide - grid.real(q), form.h)).reshape(-1, len(weight))
    best = error.argmin(axis=0) * len(weight) + np.arange(len(weight))
    return np.ascontiguousarray(q[best]), grid.rows(best)


@dataclass(frozen=True)
class Rounder:
    """Rounds the weights of layers whose Gram matrix is known."""

    grams: Mapping[ir.Node, GramStatistics]
    search: Search = Search()

    def __call__(
        self, weight: Float32, qparams: QParams, users: Sequence[ir.Node], *, corrects: bool
    ) -> Rounded | None:
        """Return the integers of a weight that all users read alike; None without their inputs.

        corrects says that all users have a bias which will take the shift: then only the
        variation of the error around its mean counts.
        """
        spread = spread_of(qparams, weight.shape)
        ends = limits(qparams.dtype, narrow=qparams.narrow and not self.widens(qparams))
        found = self.spread(weight, spread, ends, users, corrects=corrects)
        return None if found is None else rounded(found, spread, qparams, self.widens(qparams))

    def widens(self, qparams: QParams) -> bool:
        """Return whether channels may get zero points of their own."""
        few = (qparams.limits[1] - qparams.limits[0]).bit_length() <= FEW_BITS
        return self.search.zeros and qparams.axis is not None and few

    def spread(
        self,
        weight: Float32,
        spread: Spread,
        ends: tuple[int, int],
        users: Sequence[ir.Node],
        *,
        corrects: bool,
    ) -> Found | None:
        """Return what rounding finds for any choice of scales to start from."""
        if any(node not in self.grams for node in users):
            return None
        layout = hessian.rows_of(users[0])
        rows = layout.of(weight).astype(np.float64)
        full = sum(hessian.matrix(self.grams[node]) for node in users)
        if not isinstance(full, np.ndarray) or full.shape[-1] != rows.shape[-1] + 1:
            return None
        h = hessian.damped(hessian.centred(full) if corrects else full[:, :-1, :-1])
        mean = hessian.mean(full) if corrects else None
        return search_rows(self.search, rows, h, layout, spread, ends, mean)


def spread_of(qparams: QParams, shape: tuple[int, ...]) -> Spread:
    """Return the scales of qparams for a weight of this shape."""
    scale, zero = broadcast(qparams, len(shape))
    which = np.arange(qparams.scale.size).reshape(scale.shape)
    return Spread(
        np.broadcast_to(scale.astype(np.float64), shape),
        np.broadcast_to(zero.astype(np.float64), shape),
        np.broadcast_to(which, shape),
    )


def rounded(found: Found, spread: Spread, qparams: QParams, widened: bool) -> Rounded:
    """Return what was found as qparams, integers and shift."""
    scale, zero = (
        spread.stored(v, qparams.scale.size).reshape(qparams.scale.shape)
        for v in (found.scale, found.zero)
    )
    narrow = qparams.narrow and not widened
    made = replace(
        qparams, scale=scale.astype(np.float32), zero_point=zero.astype(np.int32), narrow=narrow
    )
    return Rounded(made, found.integers, found.shift)


def search_rows(
    search: Search,
    rows: Float64,
    h: Float64,
    layout: hessian.Rows,
    spread: Spread,
    ends: tuple[int, int],
    mean: Float64 | None,
) -> Found:
    """Return the integers that come close to rows (G, C, K) under h (G, K, K).

    The result has the layout of the weight that spread is for. mean (G, K) is of the inputs,
    whose shift the bias will take.
    """
    shape = spread.scale.shape
    scale, zero, which = (layout.of(v) for v in (spread.scale, spread.zero, spread.which))
    make = partial(_start, ends=ends, scales=search.scales)
    start = [make(s, z, w) for s, z, w in zip(scale, zero, which, strict=True)]
    done = search(rows, h, start)
    error = rows - np.stack([grid.real(q) for q, grid in done])
    shift = None if mean is None else np.einsum("gck,gk->gc", error, mean).reshape(-1)
    scales, zeros, q = (
        layout.back(np.stack(part), shape)
        for part in ([g.scale for _, g in done], [g.zero for _, g in done], [q for q, _ in done])
    )
    return Found(scales, zeros, q.astype(np.int32), shift)


def _start(
    scale: Float64,
    zero: Float64,
    which: npt.NDArray[np.int64],
    *,
    ends: tuple[int, int],
    scales: bool,
) -> Grid:
    """Return the grid of a group to start from, which says whether its scales are free."""
    grid = Grid(np.ascontiguousarray(scale), np.ascontiguousarray(zero), *ends)
    apart = bool((which[1:, 0] != which[:-1, 0]).all())  # not one scale for all
    if not scales or not apart or grid.bits > FEW_BITS:
        return grid
    shared = np.unique(which[0], return_inverse=True)[1].reshape(-1).astype(np.int64)
    return replace(grid, shared=shared)
