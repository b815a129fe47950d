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
from qtool.qparams import Float32, QParams, limits
from qtool.quant.rounding import ROUNDINGS
from qtool.quant.rounding.grid import Float64, Grid
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
class Rounder:
    """Rounds the weights of layers whose Gram matrix is known, in this many threads."""

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
        if any(node not in self.grams for node in users):
            return None
        layout = hessian.rows_of(users[0])
        rows = layout.of(weight).astype(np.float64)
        full = sum(hessian.matrix(self.grams[node]) for node in users)
        if not isinstance(full, np.ndarray) or full.shape[-1] != rows.shape[-1] + 1:
            return None
        h = hessian.damped(hessian.centred(full) if corrects else full[:, :-1, :-1])
        grids = self._grids(rows, h, qparams)
        found = [self._best(rows[g], h[g], [grid[g] for grid in grids]) for g in range(len(rows))]
        q = np.stack([one for one, _ in found])
        scale = np.stack([grid.scale[:, :1] for _, grid in found])
        error = rows - np.stack([grid.real(one) for one, grid in found])
        shift = np.einsum("gck,gk->gc", error, hessian.mean(full)).reshape(-1) if corrects else None
        chosen = qparams
        if qparams.axis is not None:
            chosen = replace(qparams, scale=scale.reshape(-1).astype(np.float32))
        return Rounded(chosen, layout.back(q, weight.shape).astype(np.int32), shift)

    def _grids(self, rows: Float64, h: Float64, qparams: QParams) -> list[list[Grid]]:
        """Return the grids to try, of each group; the first is that of the qparams."""
        shape = rows.shape
        low, high = limits(qparams.dtype, narrow=qparams.narrow)

        def grids(factor: Float64) -> list[Grid]:
            scale, zero = (
                np.broadcast_to(v.reshape(-1), (shape[0] * shape[1],)).reshape(*shape[:2], 1)
                for v in (qparams.scale.astype(np.float64), qparams.zero_point.astype(np.float64))
            )
            scale = (scale * factor).astype(np.float32).astype(np.float64)
            spread = [np.ascontiguousarray(np.broadcast_to(v, shape)) for v in (scale, zero)]
            return [Grid(s, z, low, high) for s, z in zip(*spread, strict=True)]

        plain = grids(np.ones((*shape[:2], 1)))
        bits = (high - low).bit_length()
        if not self.search_scale or qparams.axis is None or bits > FEW_BITS:
            return [plain]
        likely = _likely(rows, np.einsum("gkk->gk", h), grids)
        return [plain, *(grids(factor) for factor in likely)]

    def _best(self, rows: Float64, h: Float64, grids: Sequence[Grid]) -> tuple[Float64, Grid]:
        """Return the integers of a group and their grid, the best of each row."""
        parts = np.array_split(np.arange(len(rows)), self._n_parts(rows))
        with ThreadPoolExecutor(len(parts)) as pool:
            done = list(pool.map(lambda part: _best_rows(rows, h, grids, part, self.method), parts))
        scale = np.concatenate([grid.scale for _, grid in done])
        zero = np.concatenate([grid.zero for _, grid in done])
        merged = Grid(scale, zero, grids[0].low, grids[0].high)
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


def _likely(rows: Float64, diagonal: Float64, grids: object) -> Iterator[Float64]:
    """Yield (G, C, 1) factors that are good where only the diagonal of h counts."""
    errors = []
    for factor in FACTORS:
        cut = grids(np.full((*rows.shape[:2], 1), factor))  # type: ignore[operator]
        real = np.stack([
            grid.real(np.clip(np.rint(w / grid.scale) + grid.zero, grid.low, grid.high))
            for w, grid in zip(rows, cut, strict=True)
        ])  # fmt: skip
        errors.append((np.square(rows - real) * diagonal[:, None, :]).sum(-1))
    order = np.argsort(np.stack(errors), axis=0, kind="stable")
    for rank in range(FINALISTS):
        yield np.asarray(FACTORS)[order[rank]][..., None]
