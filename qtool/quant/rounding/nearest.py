"""Each weight to the nearest integer, ties to the even one."""

from __future__ import annotations

import numpy as np

from qtool.quant.rounding.form import Form
from qtool.quant.rounding.grid import Float64, Grid


def nearest(weight: Float64, form: Form, grid: Grid) -> Float64:
    """Return the integers nearest to the weights, whatever the error of the output."""
    return np.clip(np.rint(weight / grid.scale) + grid.zero, grid.low, grid.high)
