"""Quantization parameters and the affine map between real numbers and integers.

Shape legend: a tensor has any shape; scale and zero_point are scalars (per tensor), or have
shape (C,) for the C slices along `axis` (per channel).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qtool.errors import ModelError
from qtool.registry import lookup

Array = npt.NDArray[np.generic]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int32 = npt.NDArray[np.int32]

DTYPES: dict[str, tuple[int, int]] = {
    "int3": (-4, 3),  # 3 bits are stored in 4: ONNX has no such type
    "uint3": (0, 7),
    "int4": (-8, 7),
    "uint4": (0, 15),
    "int8": (-128, 127),
    "uint8": (0, 255),
    "int16": (-32768, 32767),
    "uint16": (0, 65535),
}


@dataclass(frozen=True)
class QParams:
    """real = scale * (q - zero_point), eq. 1 of docs/quantization.md.

    scale is float32, positive; zero_point an integer of the legal range of dtype; both of shape
    () or (C,). narrow means that the lowest integer of a signed dtype is not used.
    """

    scale: Float32
    zero_point: Int32
    dtype: str
    axis: int | None = None
    narrow: bool = False

    @property
    def limits(self) -> tuple[int, int]:
        """The smallest and the largest integer in use."""
        return limits(self.dtype, narrow=self.narrow)


def limits(dtype: str, *, narrow: bool = False) -> tuple[int, int]:
    """Return the smallest and the largest integer of dtype."""
    low, high = lookup(DTYPES, dtype, "integer type")
    return (low + 1, high) if narrow and low < 0 else (low, high)


def from_range(
    low: npt.ArrayLike,
    high: npt.ArrayLike,
    dtype: str,
    *,
    symmetric: bool = False,
    narrow: bool = False,
    axis: int | None = None,
) -> QParams:
    """Return the qparams whose range just covers [low, high] and 0.

    low and high are real, of shape () or (C,). Zero is always exactly representable, so padding
    and ReLU stay exact; rounding zero_point shifts the covered range by up to scale / 2, so its
    ends are represented with at most that error. A range too narrow for a normal float32 scale,
    such as an all-zero tensor has, gets scale 1. symmetric puts zero_point in the middle of the
    integers. Eq. 6 and 7 of docs/quantization.md.

    Raises:
        ModelError: low or high is NaN or infinite.
    """
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        raise ModelError(
            f"the range to quantize is not finite (low {np.min(low):g}, high {np.max(high):g}): "
            "look for NaN and Inf in the weights and in the sample data"
        )
    qmin, qmax = limits(dtype, narrow=narrow)
    largest = float(np.finfo(np.float32).max)  # no element lies beyond it
    low, high = np.clip(low, -largest, largest), np.clip(high, -largest, largest)
    scale = range_scale(low, high, qmin, qmax, symmetric=symmetric).astype(np.float32)
    # A subnormal scale has too few bits, and some CPUs take it for 0; nothing is lost at 1.
    degenerate = scale < np.finfo(np.float32).tiny
    scale = np.where(degenerate, np.float32(1), scale).astype(np.float32)
    lows = np.where(degenerate, 0.0, low)
    zero = range_zero_point(lows, scale.astype(np.float64), qmin, qmax, symmetric=symmetric)
    return QParams(scale, zero.astype(np.int32), dtype, axis, narrow)


def range_scale(
    low: npt.ArrayLike, high: npt.ArrayLike, qmin: int, qmax: int, *, symmetric: bool
) -> Float64:
    """Return the smallest step with which qmin..qmax covers [low, high] and 0, eq. 6.

    Not yet rounded to float32; 0 when low and high are.
    """
    lows = np.minimum(np.asarray(low, np.float64), 0.0)
    highs = np.maximum(np.asarray(high, np.float64), 0.0)
    if symmetric:
        zero = middle(qmin, qmax)
        return np.maximum(-lows / (zero - qmin), highs / (qmax - zero))
    return np.asarray((highs - lows) / (qmax - qmin), np.float64)


def range_zero_point(
    low: npt.ArrayLike, scale: Float64, qmin: int, qmax: int, *, symmetric: bool
) -> Float64:
    """Return the integer that stands for 0, eq. 7, for a positive scale."""
    if symmetric:
        return np.full(np.shape(scale), middle(qmin, qmax), np.float64)
    lows = np.minimum(np.asarray(low, np.float64), 0.0)
    return np.asarray(np.clip(np.rint(qmin - lows / scale), qmin, qmax), np.float64)


def middle(qmin: int, qmax: int) -> int:
    """Return the zero_point of symmetric quantization: 0, or the upper middle of unsigned ones."""
    return (qmin + qmax + 1) // 2


def quantize(x: npt.ArrayLike, qparams: QParams) -> Int32:
    """Return saturate(round_half_even(x / scale) + zero_point) as int32, eq. 2.

    The division is float32, as in ONNX QuantizeLinear. Infinities saturate. NaN, which ONNX leaves
    open, counts as 0: it gives the zero point.
    """
    array = np.asarray(x, np.float32)
    scale, zero = broadcast(qparams, array.ndim)
    low, high = qparams.limits
    with np.errstate(over="ignore", invalid="ignore"):
        steps = np.rint(array / scale)
    steps = np.where(np.isnan(steps), np.float32(0), steps)
    # Clipped before the sum, so that it is exact.
    steps = np.minimum(np.maximum(steps, (low - zero).astype(np.float32)), high - zero)
    return np.asarray(steps + zero, np.int32)


def dequantize(q: npt.ArrayLike, qparams: QParams) -> Float32:
    """Return scale * (q - zero_point) as float32, eq. 1, as in ONNX DequantizeLinear."""
    array = np.asarray(q, np.int32)
    scale, zero = broadcast(qparams, array.ndim)
    with np.errstate(over="ignore"):
        return np.asarray((array - zero).astype(np.float32) * scale, np.float32)


def broadcast(qparams: QParams, ndim: int) -> tuple[Float32, Int32]:
    """Return scale and zero_point shaped so that they broadcast along qparams.axis."""
    if qparams.axis is None:
        return qparams.scale, qparams.zero_point
    shape = [1] * ndim
    shape[qparams.axis] = -1
    return qparams.scale.reshape(shape), qparams.zero_point.reshape(shape)
