"""GPTQ: each weight is rounded in turn, and those that follow make good its error.

Frantar et al., arXiv 2210.17323. Weights whose inputs are largest come first: the others can
still follow.
"""

from __future__ import annotations

import numpy as np

from qtool import _native
from qtool.quant.rounding.form import Form
from qtool.quant.rounding.grid import Float64, Grid


def gptq(weight: Float64, form: Form, grid: Grid) -> Float64:
    """Return the integers that one pass finds, from the largest diagonal element of h down."""
    order = form.order
    rows, cut = np.ascontiguousarray(weight[:, order]), grid.ordered(order)
    found = _native.round_gptq(rows, form.factor, cut.scale, cut.zero, low=grid.low, high=grid.high)
    q = np.empty_like(weight)
    q[:, order] = found
    return q
