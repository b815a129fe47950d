"""Coordinate descent from GPTQ's integers: single weights move by one step while that helps.

As in QuantEase (arXiv 2309.01885) and COMQ (arXiv 2403.07134). The error only falls, and no
single step is left that would lower it.
"""

from __future__ import annotations

import numpy as np

from qtool import _native
from qtool.quant.rounding.form import Form
from qtool.quant.rounding.gptq import gptq
from qtool.quant.rounding.grid import Float64, Grid


def descent(weight: Float64, form: Form, grid: Grid) -> Float64:
    """Return integers that no change of one of them by one step improves."""
    q = gptq(weight, form, grid)
    w = np.ascontiguousarray(weight)
    return np.asarray(
        _native.round_descent(w, form.h, q, grid.scale, grid.zero, low=grid.low, high=grid.high)
    )
