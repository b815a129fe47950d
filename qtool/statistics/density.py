"""A tensor's histogram as a density: the quantization error that any range would cause.

Unit: one histogram bin, 2**exponent of the statistics. Whatever the tensor's scale is, the numbers
here lie within the bin indices, so nothing overflows, and scaling the tensor by a power of two
scales every result exactly.

The density is uniform within a bin, except that three values are known exactly and are kept as
atoms: zero (which quantizes without error), the minimum and the maximum.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from qtool.model import TensorStatistics
from qtool.qparams import range_scale, range_zero_point

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Density:
    """Elements of one tensor, in units of a bin.

    Between edges[i] and edges[i + 1] lie counts[i] elements, evenly; besides, atoms[j] occurs
    atom_counts[j] times. zeros is the number of exact zeros, which are in neither.
    """

    minimum: float
    maximum: float
    zeros: int
    edges: Float64  # (n + 1,), increasing
    counts: Float64  # (n,)
    atoms: Float64
    atom_counts: Float64

    @property
    def hull(self) -> tuple[float, float]:
        """The smallest range that holds all elements and 0."""
        return min(self.minimum, 0.0), max(self.maximum, 0.0)

    @cached_property
    def heights(self) -> Float64:
        """The number of elements per unit between two edges, (n,)."""
        return np.asarray(self.counts / np.diff(self.edges))

    @cached_property
    def jumps(self) -> tuple[Float64, Float64]:
        """The edges where heights changes, and by how much it drops.

        With F' = f, the integral of f over the slabs is drops @ F(edges).
        """
        drops = -np.diff(self.heights, prepend=0.0, append=0.0)
        changed = drops != 0
        return self.edges[changed], drops[changed]

    @property
    def total(self) -> float:
        """The number of elements."""
        return float(self.counts.sum() + self.atom_counts.sum()) + self.zeros


def density(statistics: TensorStatistics) -> Density:
    """Return the density of a tensor that has at least one element."""
    unit = -statistics.exponent
    low, high = math.ldexp(statistics.minimum, unit), math.ldexp(statistics.maximum, unit)
    n, first = len(statistics.counts), statistics.first
    edges = np.arange(first, first + n + 1, dtype=np.float64)
    edges[0], edges[-1] = low, high
    counts = statistics.counts.astype(np.float64)
    if statistics.n_zeros:
        counts[-first] -= statistics.n_zeros
    # A last bin that starts at the maximum holds nothing else.
    tops = counts[-1] if edges[-2] == high else 1.0
    atoms = np.array([[low, 1.0], [high, tops]] if low != high else [[low, counts.sum()]])
    atoms = atoms[atoms[:, 0] != 0]
    for value, count in atoms:
        counts[0 if value == low else -1] -= count
    if edges[-2] == high:
        edges, counts = edges[:-1], counts[:-1]
    return Density(low, high, statistics.n_zeros, edges, counts, atoms[:, 0], atoms[:, 1])


def grid(low: float, high: float, *, levels: int, symmetric: bool) -> tuple[float, float]:
    """Return the scale and zero_point, in 0..levels - 1, with which eq. 6 and 7 cover a range."""
    scale = range_scale(low, high, 0, levels - 1, symmetric=symmetric)
    if scale == 0:
        return 0.0, 0.0
    zero = range_zero_point(low, scale, 0, levels - 1, symmetric=symmetric)
    return float(scale), float(zero)


def error(x: Density, low: float, high: float, *, levels: int, symmetric: bool) -> float:
    """Return the sum over the elements of (x - Q(x))**2, for the grid that covers [low, high].

    Q is eq. 1 and eq. 2 with the qparams of eq. 6 and 7, but for the rounding of scale to float32.
    """
    scale, zero = grid(low, high, levels=levels, symmetric=symmetric)
    if scale == 0:
        return energy(x)
    atoms = x.atoms / scale + zero
    atoms -= np.clip(np.rint(atoms), 0, levels - 1)
    edges, drops = x.jumps
    slabs = drops @ _antiderivative(edges / scale + zero, levels - 1)
    return float(scale**2 * (x.atom_counts @ atoms**2 + scale * slabs))


def energy(x: Density) -> float:
    """Return the sum of the squares of the elements: the error of quantizing all to zero."""
    edges, drops = x.jumps
    return float(x.atom_counts @ x.atoms**2 + drops @ edges**3 / 3)


def sqnr_db(
    statistics: TensorStatistics, low: float, high: float, *, levels: int, symmetric: bool
) -> float:
    """Return the predicted 10 log10(sum x**2 / sum (x - Q(x))**2) of covering [low, high].

    Infinite where nothing is lost, as for a tensor of zeros.
    """
    if statistics.minimum == statistics.maximum == 0:
        return math.inf
    x = density(statistics)
    unit = -statistics.exponent
    noise = error(
        x, math.ldexp(low, unit), math.ldexp(high, unit), levels=levels, symmetric=symmetric
    )
    return 10 * math.log10(energy(x) / noise) if noise > 0 else math.inf


def _antiderivative(t: Float64, top: int) -> Float64:
    """Return the integral from 0 to t of (v - clip(round(v), 0, top))**2 dv.

    Each whole step contributes 1/12; what is left on either side of a grid point is a cubic.
    """
    nearest = np.minimum(np.maximum(np.rint(t), 0), top)
    rest = t - nearest
    return np.asarray(nearest / 12 + rest * rest * rest / 3)
