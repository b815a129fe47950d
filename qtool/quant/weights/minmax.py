"""The range that just covers every weight: nothing is clipped."""

from __future__ import annotations

import numpy as np

from qtool.qparams import Float32, QParams, from_range


def minmax(
    weight: Float32, *, dtype: str, axis: int | None, symmetric: bool, narrow: bool
) -> QParams:
    """Return the qparams whose range just covers the weights, per slice along axis."""
    low, high = extremes(weight, axis)
    return from_range(low, high, dtype, symmetric=symmetric, narrow=narrow, axis=axis)


def extremes(weight: Float32, axis: int | None) -> tuple[Float32, Float32]:
    """Return the smallest and the largest weight, of shape () or (C,) per slice along axis."""
    others = None if axis is None else tuple(i for i in range(weight.ndim) if i != axis)
    low = np.asarray(np.min(weight, axis=others, initial=0.0), np.float32)
    high = np.asarray(np.max(weight, axis=others, initial=0.0), np.float32)
    return low, high
