"""SparseGPT's mask (arXiv 2301.00774), then the least squares solution for that mask."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from qtool import _native
from qtool.compress.hessian import Hessian, factor
from qtool.compress.patterns import Pattern

STEPS = 30  # of conjugate gradients; the output error then moves by less than 1e-3 of itself


def prune(
    rows: npt.NDArray[np.float64], hessian: Hessian, pattern: Pattern, sparsity: float
) -> npt.NDArray[np.float64]:
    """Return the rows with zeros where the others best make up for it, and those others."""
    found = np.empty_like(rows)
    for g, h in enumerate(hessian.regular):
        single = pattern.single
        order = hessian.order[g] if single else pattern.order(hessian.depth)
        r = hessian.factors[g] if single else factor(h[np.ix_(order, order)])
        moved = np.ascontiguousarray(rows[g][:, order])
        _native.prune_sweep(moved, r, fraction=sparsity, **pattern.sweep())
        back = np.empty_like(moved)
        back[:, order] = moved
        found[g] = refit(rows[g], h, back)
    return found


def refit(
    rows: npt.NDArray[np.float64], h: npt.NDArray[np.float64], pruned: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Return the rows (C, K) of least output error that are zero where pruned is."""
    mask = (pruned != 0).astype(np.uint8)
    weights = np.ascontiguousarray(pruned, np.float64).copy()
    _native.refit(
        np.ascontiguousarray(rows), np.ascontiguousarray(h), mask, weights, max_steps=STEPS
    )
    return weights
