"""The range whose quantized distribution tells most about the real one (Kullback-Leibler).

As in TensorRT: for each candidate range, P is the histogram with what is clipped folded into its
end bins, Q is the histogram spread evenly over the non-empty bins of each quantization step, and
the range of least KL(P || Q) wins (eq. 11 of docs/quantization.md). Exact zeros are in neither:
they quantize without error in every range.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from qtool.model import TensorStatistics
from qtool.qparams import range_scale, range_zero_point
from qtool.statistics.ranges.minmax import minmax

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

BINS = 2048  # no coarser than this from minimum to maximum, where the statistics allow
FINE_LEVELS = 2048  # with as many, the steps are finer than the bins
SMALLEST = 1e-4  # elements in a bin of Q that is empty but that P was folded into
CANDIDATES = 512


def entropy(statistics: TensorStatistics, *, levels: int, symmetric: bool) -> tuple[float, float]:
    """Return the range [max(minimum, -t), min(maximum, t)] with the t of least KL divergence."""
    widest = minmax(statistics, levels=levels, symmetric=symmetric)
    if levels >= FINE_LEVELS or widest == (0.0, 0.0):
        return widest
    first, counts, exponent = _coarsened(statistics)
    low, high = min(first, 0), max(first + len(counts), 0)
    furthest = max(-low, high)
    reach = np.arange(furthest, 0, -math.ceil(furthest / CANDIDATES))
    lows, highs = np.maximum(-reach, low), np.minimum(reach, high)
    scale = range_scale(lows, highs, 0, levels - 1, symmetric=symmetric)
    at = np.clip(np.stack([lows, highs]) - first, 0, len(counts))
    filled = _running(np.sign(counts))[at]
    # With fewer bins than steps there is nothing to merge, and KL sees only what is clipped.
    n = int(np.count_nonzero((scale >= 1) & (filled[1] - filled[0] >= levels // 2)))
    if n < 2:
        return widest
    zero = range_zero_point(lows, scale, 0, levels - 1, symmetric=symmetric)
    bounds = _bounds(lows[:n], highs[:n], scale[:n], zero[:n], levels)
    best = int(np.argmin(_divergence(counts, bounds - first)))  # the widest of equals
    chosen = math.ldexp(int(lows[best]), exponent), math.ldexp(int(highs[best]), exponent)
    return max(chosen[0], widest[0]), min(chosen[1], widest[1])


def _coarsened(statistics: TensorStatistics) -> tuple[int, Float64, int]:
    """Return (first, counts, exponent) of at most 2 * BINS bins, without the exact zeros."""
    first, exponent = statistics.first, statistics.exponent
    counts = statistics.counts.astype(np.float64)
    if statistics.n_zeros:
        counts[-first] -= statistics.n_zeros
    while len(counts) > 2 * BINS:
        counts = np.concatenate([np.zeros(first % 2), counts])
        counts = np.concatenate([counts, np.zeros(len(counts) % 2)])
        counts, first, exponent = counts.reshape(-1, 2).sum(axis=1), first // 2, exponent + 1
    return first, counts, exponent


def _bounds(lows: Int64, highs: Int64, scale: Float64, zero: Float64, levels: int) -> Int64:
    """Return the first bin of each step, and the end: (n, levels + 1), from lows to highs.

    Bin k belongs to the step that its middle k + 1/2 rounds to.
    """
    steps = np.arange(levels + 1) - 0.5 - zero[:, None]
    bounds = np.ceil(steps * scale[:, None] - 0.5).astype(np.int64)
    bounds = np.clip(bounds, lows[:, None], highs[:, None])
    bounds[:, 0], bounds[:, -1] = lows, highs
    return np.asarray(bounds)


def _divergence(counts: Float64, bounds: Int64) -> Float64:
    """Return KL(P || Q) of each candidate.

    With N elements of which M lie inside, N * KL = sum P log P - sum P log Q - N log(N / M). Q is
    constant over the non-empty bins of a step, so both sums come from running sums.
    """
    at = np.clip(bounds, 0, len(counts))
    upto, p_log_p = _running(counts), _running(_x_log_x(counts))
    inside = np.diff(upto[at], axis=1)
    filled = np.diff(_running(np.sign(counts))[at], axis=1)
    log_q = np.log(np.maximum(inside, SMALLEST) / np.maximum(filled, 1))
    first, last = at[:, 0], at[:, -1]
    result = p_log_p[last] - p_log_p[first] - (inside * log_q).sum(axis=1)
    for edge, folded in ((first, upto[first]), (last - 1, upto[-1] - upto[last])):
        own = counts[np.clip(edge, 0, len(counts) - 1)]
        step = (at[:, 1:-1] <= edge[:, None]).sum(axis=1)
        q = np.where(own > 0, log_q[np.arange(len(step)), step], np.log(SMALLEST))
        result += _x_log_x(own + folded) - _x_log_x(own) - folded * q
    kept, total = inside.sum(axis=1), upto[-1]
    with np.errstate(divide="ignore"):
        return np.where(kept > 0, result / total - np.log(total / kept), np.inf)


def _running(values: Float64) -> Float64:
    """Return the sums of the first 0, 1, ... n values."""
    return np.concatenate([[0.0], np.cumsum(values)])


def _x_log_x(x: Float64) -> Float64:
    """Return x * log(x), and 0 where x is 0."""
    return np.asarray(x * np.log(np.where(x > 0, x, 1.0)))
