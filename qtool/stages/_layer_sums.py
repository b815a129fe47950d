"""What is added up over the samples for one layer, and what the sums say."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from qtool.qparams import QParams, dequantize

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Sums:
    """Of one layer, for one sample or several.

    signal, noise, noise_onnxruntime: sums of squares of the float tensor, and of the int8 ones
    less it; NaN without a float tensor. lsb and most_lsb: the sum and the largest of the
    differences between the two runtimes' integers; of floats, most_apart is the largest.
    """

    n: int
    n_exact: int
    n_saturated: int
    signal: float
    noise: float
    noise_onnxruntime: float
    lsb: int
    most_lsb: int
    most_apart: float

    def plus(self, other: Sums) -> Sums:
        """Return the sums of both."""
        return Sums(
            self.n + other.n,
            self.n_exact + other.n_exact,
            self.n_saturated + other.n_saturated,
            self.signal + other.signal,
            self.noise + other.noise,
            self.noise_onnxruntime + other.noise_onnxruntime,
            self.lsb + other.lsb,
            max(self.most_lsb, other.most_lsb),
            _largest((self.most_apart, other.most_apart)),
        )


def compared(native: Array, theirs: Array, real: Array | None, qparams: QParams | None) -> Sums:
    """Return the sums of one sample.

    native, theirs: the tensor in the native runtime and in onnxruntime, integers where qparams
    are given. real: the float model's, of the same shape.
    """
    exact = native == theirs
    n_exact = int(np.count_nonzero(exact))
    lsb = most_lsb = n_saturated = 0
    most_apart = 0.0
    if qparams is not None:
        n_saturated = _saturated(native, qparams)
        if n_exact < native.size:
            apart = np.abs(native.astype(np.int32) - theirs.astype(np.int32))
            lsb, most_lsb = int(apart.sum(dtype=np.int64)), int(apart.max())
    elif n_exact < native.size:
        both_nan = np.isnan(native) & np.isnan(theirs)
        n_exact += int(np.count_nonzero(both_nan))
        with np.errstate(invalid="ignore", over="ignore"):
            apart = np.abs(native.astype(np.float64) - theirs)
        most_apart = _largest(apart[~(exact | both_nan)])
    signal = noise = noise_onnxruntime = math.nan
    if real is not None:
        signal = _squares(real)
        noise = _noise(native, real, qparams)
        same = n_exact == native.size
        noise_onnxruntime = noise if same else _noise(theirs, real, qparams)
    return Sums(
        native.size, n_exact, n_saturated, signal, noise, noise_onnxruntime, lsb, most_lsb,
        most_apart,
    )  # fmt: skip


def sqnr(signal: float, noise: float) -> float | None:
    """Return 10 log10(signal / noise) in dB; infinite without noise, None where unknown."""
    if math.isnan(signal) or math.isnan(noise):
        return None
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal and math.isfinite(noise) else -math.inf


def _saturated(integers: Array, qparams: QParams) -> int:
    """Return how many integers are at an end of the range that does not stand for real 0."""
    zeros = qparams.zero_point
    return sum(
        int(np.count_nonzero(integers == end)) for end in qparams.limits if not (zeros == end).all()
    )


def _noise(values: Array, real: Array, qparams: QParams | None) -> float:
    floats = values if qparams is None else dequantize(values, qparams)
    with np.errstate(invalid="ignore", over="ignore"):
        return _squares(floats - real)


def _squares(values: Array) -> float:
    flat = values.reshape(-1).astype(np.float64)
    with np.errstate(over="ignore"):
        return float(flat @ flat)


def _largest(values: Array | Sequence[float]) -> float:
    """Return the largest value; NaN if one is."""
    return float(np.max(values)) if len(values) else 0.0
