"""Equalizers: how the factors of channels are chosen. See docs/accuracy.md."""

from __future__ import annotations

from typing import Protocol

from qtool.quant.equalize import Float64, Problem
from qtool.quant.equalizers.error import error
from qtool.quant.equalizers.ranges import ranges


class Equalizer(Protocol):
    """Chooses the factor of each variable of a problem, within its bounds."""

    def __call__(self, problem: Problem) -> Float64:
        """Return factors, float64 (number of variables,)."""
        ...


EQUALIZERS: dict[str, Equalizer] = {"error": error, "ranges": ranges}
