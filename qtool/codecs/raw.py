"""raw: the values as they are, little-endian. Decoding copies nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from qtool.errors import FormatError


def encode(values: npt.NDArray[Any]) -> tuple[bytes, dict[str, Any]]:
    """Return the little-endian bytes of values, any dtype and shape, and no parameters."""
    return values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes(), {}


def decode(
    data: memoryview, dtype: np.dtype[Any], shape: tuple[int, ...], link: Mapping[str, Any]
) -> npt.NDArray[Any]:
    """Return a view of data as an array.

    Raises:
        FormatError: data has not the length of such an array.
    """
    if len(data) != math.prod(shape) * dtype.itemsize:
        needed = math.prod(shape) * dtype.itemsize
        raise FormatError(f"raw: {len(data)} bytes, but {needed} are needed")
    return np.frombuffer(data, dtype.newbyteorder("<")).reshape(shape)
