"""Factors with the least predicted error of the quantized model; see docs/accuracy.md.

Shape legend: as in qtool/quant/equalize.py; variables are numbered v.
"""

from __future__ import annotations

import numpy as np

from qtool.quant.equalize import Float64, Problem, on_grid
from qtool.quant.equalizers.noise import Terms, importance, predicted, terms

POWERS = (8.0, 16.0, 32.0)  # of the norms that take the place of maxima, one after the other
STEPS = 120  # of each
RATE = 0.1  # of log s


def error(problem: Problem) -> Float64:
    """Return the factors that gradient descent on the logarithms finds (Adam, fixed steps).

    Where nothing is won, they are 1.
    """
    weights = importance(problem)
    low, high = np.log(problem.lower), np.log(problem.upper)
    u = np.zeros(len(low))
    for power in POWERS:
        u = _descend(terms(problem, weights, power), u, low, high)
    factors, one = on_grid(problem, np.exp(u)), np.ones(len(low))
    return factors if predicted(problem, factors) < predicted(problem, one) else one


def _descend(goal: Terms, u: Float64, low: Float64, high: Float64) -> Float64:
    first, second = np.zeros_like(u), np.zeros_like(u)
    for step in range(1, STEPS + 1):
        _, slope = goal(u)
        first = 0.9 * first + 0.1 * slope
        second = 0.99 * second + 0.01 * slope * slope
        ratio = (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.99**step)) + 1e-12)
        rate = RATE * (1 - (step - 1) / STEPS)
        u = np.clip(u - rate * ratio, low, high)
    return u
