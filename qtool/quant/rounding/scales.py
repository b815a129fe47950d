"""Scales by least squares: the ones that fit the integers best, and integers that fit them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from qtool import _native
from qtool.quant.rounding.grid import Float64, Grid

ROUNDS = 4  # after which little moves


def refit(weight: Float64, h: Float64, q: Float64, grid: Grid) -> tuple[Float64, Grid]:
    """Return integers and a grid that err less: scales and integers improved in turn.

    The scales that columns share (grid.shared) become those of least error for the integers,
    then single integers move while that lowers it; as often as anything moves, up to ROUNDS.
    """
    assert grid.shared is not None
    w, form = np.ascontiguousarray(weight), np.ascontiguousarray(h)
    n_scales = int(grid.shared.max(initial=0)) + 1
    for _ in range(ROUNDS):
        scales = _native.round_scales(
            w, form, q, grid.scale, grid.zero, grid.shared, groups=n_scales
        )
        grid = replace(grid, scale=np.ascontiguousarray(np.asarray(scales)[:, grid.shared]))
        moved = _native.round_descent(
            w, form, q, grid.scale, grid.zero, low=grid.low, high=grid.high
        )
        if np.array_equal(moved, q):
            break
        q = np.asarray(moved)
    return q, grid
