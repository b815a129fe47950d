"""k-means in one dimension, and weights that share the values it finds.

Shape legend: as in qtool.compress.hessian; k values (centroids), ascending.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qtool import _native
from qtool.compress.hessian import Hessian
from qtool.compress.rate import TABLE_BITS, Float64, entropy_bits, lengths
from qtool.hessian import output_error

Float32 = npt.NDArray[np.float32]
BINS = 1 << 16  # of the histogram that stands for more weights than that
LLOYD = 100  # steps at most
ROUNDS = 2  # of assignment, each with the bits and the centroids of the one before
TINY = 1e-300


@dataclass(frozen=True)
class Points:
    """Sorted points on a line: counts (or weights) and sums, without empty ones."""

    counts: Float64
    sums: Float64

    @property
    def places(self) -> Float64:
        """The mean of each point."""
        return self.sums / self.counts


def points(values: Float32, weights: Float32 | None = None) -> Points:
    """Return the values as points: themselves up to BINS of them, else a histogram."""
    flat = np.ascontiguousarray(values, np.float32).ravel()
    given = None if weights is None else np.ascontiguousarray(weights, np.float32).ravel()
    if flat.size <= BINS:
        order = np.argsort(flat, kind="stable")
        counts = np.ones(flat.size) if given is None else given[order].astype(np.float64)
        sums = counts * flat[order]
    else:
        counts, sums = np.zeros(BINS), np.zeros(BINS)
        low, high = float(flat.min()), float(flat.max())
        inverse = BINS / (high - low) if high > low else 0.0
        _native.bin_values(flat, given, low, inverse, counts, sums)
    kept = counts > 0
    return Points(counts[kept], sums[kept])


def optimal(found: Points, k: int) -> Float64:
    """Return the centroids of least squared error: the dynamic program over the points."""
    bounds = np.empty(min(k, found.counts.size), np.int32)
    _native.optimal_clusters(found.counts, found.sums, bounds)
    return _means(found, np.append(bounds, found.counts.size))


def linear(found: Points, k: int) -> Float64:
    """Return k values from the least to the greatest at equal distances, then Lloyd's steps."""
    places = found.places
    return lloyd(found, np.linspace(places[0], places[-1], k))


def density(found: Points, k: int) -> Float64:
    """Return k quantiles at equal distances, then Lloyd's steps."""
    cumulated = np.cumsum(found.counts) / found.counts.sum()
    return lloyd(found, np.interp((np.arange(k) + 0.5) / k, cumulated, found.places))


INITS: dict[str, Callable[[Points, int], Float64]] = {
    "linear": linear,
    "density": density,
    "optimal": optimal,
}


def lloyd(found: Points, centroids: Float64) -> Float64:
    """Return centroids after Lloyd's steps, until none moves."""
    places = found.places
    for _ in range(LLOYD):
        middles = (centroids[1:] + centroids[:-1]) / 2
        bounds = np.concatenate([[0], np.searchsorted(places, middles), [places.size]])
        moved = _means(found, bounds)
        if moved.size == centroids.size and np.array_equal(moved, centroids):
            break
        centroids = moved
    return centroids


def _means(found: Points, bounds: npt.NDArray[np.int_]) -> Float64:
    """Return the mean of the points of each cluster that has any; bounds as of a partition."""
    counts, sums = (np.append(0.0, np.cumsum(x)) for x in (found.counts, found.sums))
    n, total = np.diff(counts[bounds]), np.diff(sums[bounds])
    return np.asarray(total[n > 0] / n[n > 0])


def kmeans(
    values: Float32,
    k: int,
    *,
    weights: Float32 | None = None,
    init: str = "optimal",
    zero: bool = False,
) -> Float32:
    """Return at most k centroids, ascending, of least squared error (weighted).

    zero makes the nearest to 0 exactly 0. The sum over a histogram of BINS stands for more
    values than that: within 0.3 % of the optimum for k up to 256.
    """
    found = points(values, weights)
    centroids = lloyd(found, INITS[init](found, min(k, found.counts.size))).astype(np.float32)
    if zero and centroids.size:
        centroids[np.argmin(np.abs(centroids))] = 0
    return np.unique(centroids)


def nearest(values: Float32, centroids: Float32) -> npt.NDArray[np.uint8]:
    """Return the index of the nearest of at most 256 ascending centroids for each value."""
    flat = np.ascontiguousarray(values, np.float32).ravel()
    indices = np.empty(flat.size, np.uint8)
    _native.nearest(flat, np.ascontiguousarray(centroids, np.float32), indices)
    return indices.reshape(values.shape)


@dataclass(frozen=True)
class Shared:
    """Rows that share values: indices (G, C, K) into centroids; bits in a file; output error."""

    indices: npt.NDArray[np.int32]
    centroids: Float64
    bits: float
    error: float

    @property
    def rows(self) -> Float64:
        """The weights, (G, C, K)."""
        return np.asarray(self.centroids[self.indices])


def share(
    rows: Float64,
    hessian: Hessian,
    centroids: Float64,
    *,
    slope: float = 0.0,
    scales: Float64 | None = None,
    mask: npt.NDArray[np.uint8] | None = None,
    snap: Callable[[Float64], Float64] = lambda centroids: centroids,
) -> Shared:
    """Return the rows with every weight one of the centroids, which move to where they fit best.

    Assigns with GPTQ's feedback and slope (output error per bit) times the bits of a value; then
    the centroids get the least squares solution for that assignment, snapped to what can be
    stored. A centroid 0 stays 0. With scales (G, C), a weight is its row's scale times a centroid.
    """
    order = hessian.order[:, None]
    by_row = np.ones(rows.shape[:2]) if scales is None else scales
    best: Shared | None = None
    bits = np.zeros(centroids.size)
    for number in range(ROUNDS + 1):
        indices = np.empty(rows.shape, np.int32)
        costs = np.empty(rows.shape[:2])
        for g in range(rows.shape[0]):
            held = None if mask is None else np.take_along_axis(mask[g], order[g], 1)
            _native.sweep(
                np.take_along_axis(rows[g], order[g], 1), hessian.factors[g], by_row[g],
                np.full(rows.shape[1], slope if number else 0.0), centroids, bits,
                int(np.argmin(np.abs(centroids))), indices[g], costs[g], held,
            )  # fmt: skip
        placed = np.empty_like(indices)
        np.put_along_axis(placed, order, indices, 2)
        counts = np.bincount(placed.ravel(), minlength=centroids.size)
        total = entropy_bits(counts) + (32 - TABLE_BITS) * centroids.size
        found = Shared(placed, centroids, total, float(costs.sum()))
        moved = snap(_least_squares(rows, hessian, found, by_row))
        if np.all(np.diff(moved) > 0):
            error = output_error(rows, moved[placed] * by_row[..., None], hessian.regular).sum()
            if error < found.error:
                found = Shared(placed, moved, total, float(error))
        if best is None or found.error + slope * found.bits < best.error + slope * best.bits:
            best = found
        centroids, bits = found.centroids, lengths(counts)
    assert best is not None  # there was a round
    return best


def _least_squares(rows: Float64, hessian: Hessian, found: Shared, scales: Float64) -> Float64:
    """Return the centroids c of least output error for an assignment (Han's eq. 3, solved).

    With B the one-hot matrix of a row: (sum B^T H B) c = sum B^T H w, each row times its scale;
    centroids of no weight and those that are 0 stay.
    """
    k = found.centroids.size
    left, right = np.zeros((k, k)), np.zeros(k)
    for g, h in enumerate(hessian.regular):
        for row, index, scale in zip(rows[g], found.indices[g], scales[g], strict=True):
            order = np.argsort(index, kind="stable")
            starts = np.flatnonzero(np.diff(index[order], prepend=-1))
            used = index[order][starts]
            grouped = np.add.reduceat(h[order], starts, axis=0)  # B^T H
            right[used] += scale * (grouped @ row)
            both = np.add.reduceat(grouped[:, order], starts, axis=1)
            left[np.ix_(used, used)] += scale * scale * both
    free = (np.diag(left) > TINY) & (found.centroids != 0)
    solved = found.centroids.copy()
    if free.any():
        system = left[np.ix_(free, free)]
        ridge = 1e-9 * np.diag(system).mean() * np.eye(len(system))
        fixed = right[free] - system @ found.centroids[free]
        solved[free] += np.linalg.solve(system + ridge, fixed)
    return solved


def gains(rows: Float64, other: Float64, hessian: Hessian) -> Float64:
    """Return the factor (G, C) of each row of other that leaves the least output error for rows.

    (q H w) / (q H q) is the least squares solution; 1 where q is 0.
    """
    weighed = other @ hessian.regular
    power = np.einsum("gck,gck->gc", weighed, other)
    fitted = np.einsum("gck,gck->gc", weighed, rows)
    return np.asarray(np.divide(fitted, power, out=np.ones_like(power), where=power > 0))
