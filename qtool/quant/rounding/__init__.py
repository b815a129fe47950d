"""Rounding methods: how weights become integers once their scales are chosen.

Shape legend: C rows (output channels of one group), K weights in each.
"""

from __future__ import annotations

from typing import Protocol

from qtool.quant.rounding.descent import descent
from qtool.quant.rounding.form import Form
from qtool.quant.rounding.gptq import gptq
from qtool.quant.rounding.grid import Float64, Grid
from qtool.quant.rounding.nearest import nearest


class Rounding(Protocol):
    """Chooses the integers of the rows of a weight, given the quadratic form of their error.

    The result lies within the grid's limits and does not depend on threads or the machine.
    """

    def __call__(self, weight: Float64, form: Form, grid: Grid) -> Float64:
        """Return integers, float64 (C, K)."""
        ...


ROUNDINGS: dict[str, Rounding] = {"nearest": nearest, "gptq": gptq, "descent": descent}
