"""Weights on a uniform grid for each row, rounded to trade output error for bits.

Shape legend: as in qtool.compress.hessian. A row's weights are step * q, q in -127..127.

At a high rate a step s costs d^2 s^2 / 12 of output error per weight, d^2 the mean of the squared
pivots of R, and -log2(s) bits. So the slope, error per bit, is ln(2) d^2 s^2 / 6: given the slope,
that is the step; rounding then takes the level of least error + slope * bits (DeepCABAC's idea
with GPTQ's feedback), and coordinate descent moves single weights as long as that sum falls.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qtool import _native
from qtool.compress.hessian import Hessian
from qtool.compress.rate import Float64, entropy_bits, lengths, tensor_bits
from qtool.hessian import output_error

LIMIT = 127
LEVELS = np.arange(-LIMIT, LIMIT + 1, dtype=np.float64)
ROUNDS = 2  # of rounding with the bits that the round before showed
PASSES = 8  # of coordinate descent behind the last one; four give nine tenths of what it finds
PER_OCTAVE = 2  # steps for each doubling
TINIEST = 1e-30
SLOPE = np.log(2) / 6


@dataclass(frozen=True)
class Grid:
    """Rows on a grid: integers int8 (G, C, K) and steps float64 (G, C)."""

    integers: npt.NDArray[np.int8]
    steps: Float64
    bits: float  # of the integers and the steps in a file
    error: float  # output error by the regular H, the mean's left to the bias

    @property
    def rows(self) -> Float64:
        """The weights, (G, C, K)."""
        return np.asarray(self.integers * self.steps[..., None])


def to_grid(
    rows: Float64, hessian: Hessian, slope: float, mask: npt.NDArray[np.uint8] | None = None
) -> Grid:
    """Return the rows (G, C, K) on the grid of this slope, in output error per bit.

    mask (G, C, K) is 0 where a weight stays 0.
    """
    steps = _steps(rows, hessian, slope)
    order = hessian.order[:, None]
    sorted_rows = np.take_along_axis(rows, order, 2)
    masks = None if mask is None else np.take_along_axis(mask, order, 2)
    bits = np.zeros(LEVELS.size)
    indices = np.empty(rows.shape, np.int32)
    costs = np.empty(rows.shape[:2])
    for number in range(ROUNDS + 1):
        lambdas = np.full(rows.shape[1], slope if number else 0.0)
        for g in range(rows.shape[0]):
            held = None if masks is None else masks[g]
            given = steps[g], lambdas, LEVELS, bits, LIMIT, indices[g], costs[g], held
            _native.sweep(sorted_rows[g], hessian.factors[g], *given)
            if number == ROUNDS:
                columns = np.ix_(hessian.order[g], hessian.order[g])
                _native.descend(sorted_rows[g], hessian.regular[g][columns], *given, PASSES)
        counts = np.bincount(indices.ravel(), minlength=LEVELS.size)
        bits = lengths(counts)
    integers = np.empty(rows.shape, np.int8)
    np.put_along_axis(integers, order, (indices - LIMIT).astype(np.int8), 2)
    total = entropy_bits(counts) + tensor_bits(steps) + 32 * np.unique(steps).size
    return Grid(integers, steps, total, float(costs.sum()))


def _steps(rows: Float64, hessian: Hessian, slope: float) -> Float64:
    """Return the step of each row, (G, C): that of the slope, or one that reaches the largest.

    The latter are the former times powers of sqrt(2): few different ones are to be stored.
    """
    pivots = np.einsum("gkk->gk", hessian.factors) ** 2
    wanted = np.sqrt(slope / SLOPE / pivots.mean())
    base = min(max(wanted, TINIEST), float(np.abs(rows).max(initial=0)) or 1.0)
    short = np.log2(np.maximum(np.abs(rows).max(2) / (LIMIT * base), TINIEST))
    doublings = np.maximum(np.ceil(short * PER_OCTAVE), 0) / PER_OCTAVE
    return np.asarray(np.float32(base * 2**doublings), np.float64)


def nearest_error(rows: Float64, hessian: Hessian, slope: float) -> tuple[Float64, float]:
    """Return the rows on the grid of the slope, each weight by itself, and their output error.

    The error is the samples' own. Rounding knows nothing of them, so it is no worse on others:
    what to probe a layer's sensitivity with.
    """
    steps = _steps(rows, hessian, slope)[..., None]
    rounded = np.round(rows / steps) * steps
    return rounded, float(output_error(rows, rounded, hessian.matrix).sum())
