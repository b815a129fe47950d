"""How strongly a tensor is smoothed: factors for a strength, and the error that they predict.

Shape legend: x (N, K) rows, W (K, M). See docs/accuracy.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]

STRENGTHS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
CLIPS = tuple(1 - i / 20 for i in range(14))  # shares of the full range that are tried
LEAST_GAIN = 1.0  # dB of the predicted error, below which nothing is moved
LARGEST = 1e4  # factor
TINY = 1e-30
STEPS = 16  # factors are 2 ** (k / STEPS): rounding errors cannot change them, and they are written


@dataclass(frozen=True)
class Precision:
    """How what reads a tensor is quantized: steps of activations and of half the weights."""

    levels: int = 255
    weight_levels: int = 127
    per_channel: bool = True


@dataclass(frozen=True)
class Smoothing:
    """The strength a of a site, and its factors t (K,)."""

    strength: float
    factors: Float64


def chosen_for(
    weights: Sequence[Float64], samples: Sequence[Float64], precision: Precision
) -> Smoothing | None:
    """Return what gains most; None where no strength gains LEAST_GAIN dB of the predicted error.

    weights: of all that read the tensor. samples: rows of it, (N, K) each. Factors follow from
    every other sample, and the error is that of the others, in the range of all, for what was not
    seen may be wide where the seen was not; then the other way round. The lesser gain counts.
    """
    largest = np.max([np.abs(w).max(1) for w in weights], axis=0)
    halves = [np.concatenate(samples[start::2]) for start in (0, 1) if samples[start::2]]
    gains = [
        _gains(weights, largest, fit, held, precision)
        for fit, held in zip(halves, halves[::-1], strict=True)
    ]
    gain = np.min(gains, axis=0)
    best = int(np.argmax(gain))
    if gain[best] < LEAST_GAIN:
        return None
    return Smoothing(STRENGTHS[best], factors(np.concatenate(samples), largest, STRENGTHS[best]))


def _gains(
    weights: Sequence[Float64], largest: Float64, fit: Float64, held: Float64, precision: Precision
) -> Float64:
    """Return by how many dB each strength lowers the predicted error of rows held."""
    tried = (np.ones(fit.shape[1]), *(factors(fit, largest, a) for a in STRENGTHS))
    errors = np.array([predicted(weights, fit, held, t, precision) for t in tried])
    return np.asarray(10 * np.log10((errors[0] + TINY) / (errors[1:] + TINY)))


def factors(x: Float64, largest: Float64, strength: float) -> Float64:
    """Return t (K,) of rows x and the largest weight of each channel.

    A common factor changes nothing, so half of the channels have 1, and none has less: a narrow
    channel that is widened would be clipped where another sample has more of it.
    """
    reach = np.abs(x).max(0)
    live = (reach > 0) & (largest > 0)
    t = np.ones(len(reach))
    if live.any():
        t[live] = reach[live] ** strength / largest[live] ** (1 - strength)
        t[live] = np.clip(t[live] / np.median(t[live]), 1.0, LARGEST)
    return np.asarray(np.exp2(np.rint(np.log2(t) * STEPS) / STEPS))


def predicted(
    weights: Sequence[Float64], fit: Float64, held: Float64, t: Float64, precision: Precision
) -> float:
    """Return the mean square error of all outputs, with x / t and t W rounded, for rows held.

    Of the range of both as much is used as is best for fit (the range method mse). The mean of
    what rounding the weights costs goes into the bias; errors of channels are independent.
    """
    scaled = [weight * t[:, None] for weight in weights]
    share = sum(np.square(w).sum(1) for w in scaled)
    seen, other = fit / t, held / t
    ends = np.array([min(seen.min(), other.min(), 0.0), max(seen.max(), other.max(), 0.0)])
    alike = np.ones(len(t))
    clip = min(CLIPS, key=lambda c: _rounding(seen, ends * c, precision.levels, alike))
    steps = [np.abs(w).max(0 if precision.per_channel else None) for w in scaled]
    counts = [w.shape[1] if np.ndim(s) == 0 else 1 for w, s in zip(scaled, steps, strict=True)]
    noise = sum(np.square(s).sum() * n for s, n in zip(steps, counts, strict=True))
    by_weights = noise / precision.weight_levels**2 / 12 * other.var(0).sum()
    return float(by_weights + _rounding(other, ends * clip, precision.levels, share))


def _rounding(x: Float64, ends: Float64, levels: int, share: Float64) -> float:
    """Return the error of rows x in this range, each channel's by its share."""
    step = max(float(ends[1] - ends[0]), TINY) / levels
    low = np.rint(ends[0] / step)
    error = np.clip(np.rint(x / step), low, low + levels) * step - x
    return float(np.square(error).mean(0) @ share)
