"""Coordinate descent from GPTQ's integers: single weights move by one step while that helps.

As in QuantEase (arXiv 2309.01885) and COMQ (arXiv 2403.07134). The error only falls, and no
single step is left that would lower it.
"""

from __future__ import annotations

import numpy as np

from qtool import _native
from qtool.quant.rounding.gptq import gptq
from qtool.quant.rounding.grid import Float64, Grid


def descent(weight: Float64, h: Float64, grid: Grid) -> Float64:
    """Return integers that no change of one of them by one step improves."""
    q = gptq(weight, h, grid)
    w, form = np.ascontiguousarray(weight), np.ascontiguousarray(h)
    return np.asarray(
        _native.round_descent(w, form, q, grid.scale, grid.zero, low=grid.low, high=grid.high)
    )
