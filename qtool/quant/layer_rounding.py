"""The integers of a layer's weight by the error of its output; see docs/accuracy.md.

Shape legend: as in qtool/hessian.py; N is C, all output channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from qtool import _native, hessian
from qtool.model import GramStatistics
from qtool.qparams import Float32, QParams, broadcast, limits
from qtool.quant.rounding import ROUNDINGS
from qtool.quant.rounding.grid import Float64, Grid
from qtool.quant.rounding.scales import refit
from qtool.registry import lookup

#: Scales tried for few bits, relative to the one that clips nothing.
FACTORS = tuple(1 - 0.04 * i for i in range(17))
FINALISTS = 3  # of them that are rounded in full
FEW_BITS = 6  # up to which clipping weights can pay
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


@dataclass(frozen=True)
class Spread:
    """Scales and zero points spread over the elements of a weight, in its layout.

    which says of each element which of the scales it has.
    """

    scale: Float64
    zero: Float64
    which: npt.NDArray[np.int64]

    def stored(self, scale: Float64, n_scales: int) -> Float64:
        """Return the scales, (n_scales,), from those of all elements."""
        found = np.zeros(n_scales)
        found[self.which.reshape(-1)] = scale.reshape(-1)
        return found


@dataclass(frozen=True)
class Rounder:
    """Rounds the weights of layers whose Gram matrix is known, in this many threads.

    search_scale also looks for the scales that make the least of the output's error.
    """

    grams: Mapping[ir.Node, GramStatistics]
    method: str = "descent"
    search_scale: bool = False
    threads: int = 1

    def __call__(
        self, weight: Float32, qparams: QParams, users: Sequence[ir.Node], *, corrects: bool
    ) -> Rounded | None:
        """Return the integers of a weight that all users read alike; None without their inputs.

        corrects says that all users have a bias which will take the shift: then only the
        variation of the error around its mean counts.
        """
        scale, zero = broadcast(qparams, weight.ndim)
        which = np.arange(qparams.scale.size).reshape(scale.shape)
        spread = Spread(
            np.broadcast_to(scale.astype(np.float64), weight.shape),
            np.broadcast_to(zero.astype(np.float64), weight.shape),
            np.broadcast_to(which, weight.shape),
        )
        found = self.spread(
            weight, spread, limits(qparams.dtype, narrow=qparams.narrow), users, corrects=corrects
        )
        if found is None:
            return None
        real, integers, shift = found
        made = spread.stored(real, qparams.scale.size).reshape(qparams.scale.shape)
        return Rounded(replace(qparams, scale=made.astype(np.float32)), integers, shift)

    def spread(
        self,
        weight: Float32,
        spread: Spread,
        ends: tuple[int, int],
        users: Sequence[ir.Node],
        *,
        corrects: bool,
    ) -> tuple[Float64, npt.NDArray[np.int32], Float64 | None] | None:
        """Return scales (of each element), integers and the shift for any choice of scales."""
        if any(node not in self.grams for node in users):
            return None
        layout = hessian.rows_of(users[0])
        rows = layout.of(weight).astype(np.float64)
        full = sum(hessian.matrix(self.grams[node]) for node in users)
        if not isinstance(full, np.ndarray) or full.shape[-1] != rows.shape[-1] + 1:
            return None
        h = hessian.damped(hessian.centred(full) if corrects else full[:, :-1, :-1])
        scale, zero = (layout.of(v) for v in (spread.scale, spread.zero))
        which = layout.of(spread.which)
        done = [
            self._best(rows[g], h[g], self._grids(rows[g], h[g], Grid(*one, *ends), which[g]))
            for g, one in enumerate(zip(scale, zero, strict=True))
        ]
        q, grids = np.stack([one for one, _ in done]), [grid for _, grid in done]
        error = rows - np.stack([grid.real(one) for one, grid in done])
        shift = np.einsum("gck,gk->gc", error, hessian.mean(full)).reshape(-1) if corrects else None
        made = layout.back(np.stack([grid.scale for grid in grids]), weight.shape)
        return made, layout.back(q, weight.shape).astype(np.int32), shift

    def _grids(
        self, rows: Float64, h: Float64, grid: Grid, which: npt.NDArray[np.int64]
    ) -> list[Grid]:
        """Return the grids to try for the rows of a group; the first is the given one."""
        apart = bool((which[1:, 0] != which[:-1, 0]).all())  # not one scale for all
        if not self.search_scale or not apart or grid.bits > FEW_BITS:
            return [grid]
        shared = np.unique(which[0], return_inverse=True)[1].reshape(-1).astype(np.int64)
        plain = replace(grid, shared=shared)
        if shared.any():  # blocks: their scales are only fitted
            return [plain]
        likely = _likely(rows, np.diagonal(h), plain)
        return [plain, *(plain.scaled(factor) for factor in likely)]

    def _best(self, rows: Float64, h: Float64, grids: Sequence[Grid]) -> tuple[Float64, Grid]:
        """Return the integers of a group and their grid, the best of each row."""
        parts = np.array_split(np.arange(len(rows)), self._n_parts(rows))
        with ThreadPoolExecutor(len(parts)) as pool:
            done = list(pool.map(lambda part: _best_rows(rows, h, grids, part, self.method), parts))
        scale = np.concatenate([grid.scale for _, grid in done])
        zero = np.concatenate([grid.zero for _, grid in done])
        merged = replace(grids[0], scale=scale, zero=zero)
        return np.concatenate([q for q, _ in done]), merged

    def _n_parts(self, rows: Float64) -> int:
        worth = rows.size * rows.shape[1] >= WORK
        return min(self.threads, len(rows)) if worth else 1


def _best_rows(
    rows: Float64, h: Float64, grids: Sequence[Grid], part: npt.NDArray[np.intp], method: str
) -> tuple[Float64, Grid]:
    rounding = lookup(ROUNDINGS, method, "rounding")
    weight = np.ascontiguousarray(rows[part])
    best_q, best, least = None, None, None
    for grid in grids:
        one = replace(grid, scale=grid.scale[part], zero=grid.zero[part])
        q = rounding(weight, h, one)
        if one.shared is not None:
            q, one = refit(weight, h, q, one)
        error = np.asarray(_native.row_errors(weight - one.real(q), np.ascontiguousarray(h)))
        if best_q is None or best is None or least is None:
            best_q, best, least = q, one, error
            continue
        better = error < least
        best_q = np.where(better[:, None], q, best_q)
        scale = np.where(better[:, None], one.scale, best.scale)
        best, least = replace(best, scale=scale), np.minimum(error, least)
    assert best_q is not None
    assert best is not None
    return best_q, best


def _likely(rows: Float64, diagonal: Float64, grid: Grid) -> Iterator[Float64]:
    """Yield (C, 1) factors that are good where only the diagonal of h counts."""
    errors = []
    for factor in FACTORS:
        cut = grid.scaled(np.full((len(rows), 1), factor))
        q = np.clip(np.rint(rows / cut.scale) + cut.zero, cut.low, cut.high)
        errors.append((np.square(rows - cut.real(q)) * diagonal).sum(-1))
    order = np.argsort(np.stack(errors), axis=0, kind="stable")
    for rank in range(FINALISTS):
        yield np.asarray(FACTORS)[order[rank]][..., None]
