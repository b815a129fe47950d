"""Weight methods: how the qparams of a weight follow from its values.

Shape legend: a weight has any shape; C is its size along axis.
"""

from __future__ import annotations

from typing import Any, Protocol

import ml_dtypes
import numpy as np
import numpy.typing as npt

from qtool.qparams import Float32, QParams, broadcast, limits
from qtool.quant.weights.minmax import minmax
from qtool.quant.weights.mse import mse
from qtool.registry import lookup

CHUNK = 1 << 22  # weights that are in flight at a time

STORAGE: dict[str, npt.DTypeLike] = {
    "int3": ml_dtypes.int4,
    "uint3": ml_dtypes.uint4,
    "int4": ml_dtypes.int4,
    "uint4": ml_dtypes.uint4,
    "int8": np.int8,
    "uint8": np.uint8,
    "int16": np.int16,
    "uint16": np.uint16,
}


class WeightMethod(Protocol):
    """Chooses qparams: per tensor where axis is None, else one scale per slice along axis.

    symmetric puts the zero point in the middle; narrow leaves the lowest signed integer unused.
    """

    def __call__(
        self, weight: Float32, *, dtype: str, axis: int | None, symmetric: bool, narrow: bool
    ) -> QParams:
        """Return the qparams of the weight, whose values are finite."""
        ...


WEIGHT_METHODS: dict[str, WeightMethod] = {"minmax": minmax, "mse": mse}


def quantize_weight(
    weight: Float32,
    *,
    method: str = "minmax",
    dtype: str = "int8",
    axis: int | None = None,
    symmetric: bool = True,
    narrow: bool = True,
) -> tuple[npt.NDArray[Any], QParams]:
    """Return the weight's integers, in the dtype that ONNX stores them in, and its qparams.

    The default is what onnxruntime and the native kernels run fastest: int8, -127..127.

    Raises:
        UsageError: there is no such method or dtype.
    """
    choose = lookup(WEIGHT_METHODS, method, "weight method")
    qparams = choose(weight, dtype=dtype, axis=axis, symmetric=symmetric, narrow=narrow)
    return to_storage(weight, qparams), qparams


def to_storage(weight: Float32, qparams: QParams) -> npt.NDArray[Any]:
    """Return saturate(round_half_even(weight / scale) + zero_point), eq. 2, as ONNX stores it.

    Works through the first axis piece by piece, so that a weight of a gigabyte needs little
    more than its result.
    """
    stored: npt.NDArray[Any] = np.empty(weight.shape, STORAGE[qparams.dtype])
    flat = qparams.axis is None
    source, target = (weight.reshape(-1), stored.reshape(-1)) if flat else (weight, stored)
    low, high = limits(qparams.dtype, narrow=qparams.narrow)
    scale, zero = broadcast(qparams, source.ndim)
    along_first = qparams.axis == 0
    step = max(1, CHUNK * len(source) // max(1, source.size))
    for first in range(0, len(source), step):
        part = slice(first, first + step)
        s, z = (scale[part], zero[part]) if along_first else (scale, zero)
        q = np.rint(source[part] / s)
        target[part] = np.clip(q + z.astype(np.float32), low, high).astype(np.int32)
    return stored
