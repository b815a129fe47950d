"""The number of elements and bytes of a tensor, from its header.

Shape legend: a dim is an int, or a str (a symbolic name), or None (unknown).
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import onnx_ir as ir

from qtool.model import Dim


def tensor_shape(tensor: ir.TensorProtocol) -> tuple[int, ...]:
    """Return the dims of a constant."""
    return tuple(int(d) for d in tensor.shape.numpy())


def size(shape: Iterable[Dim] | None) -> int | None:
    """Return the number of elements, or None when a dim is unknown."""
    if shape is None:
        return None
    dims = list(shape)
    if not all(isinstance(d, int) and d >= 0 for d in dims):
        return None
    return math.prod(d for d in dims if isinstance(d, int))


def nbytes(shape: Iterable[Dim] | None, dtype: ir.DataType | None) -> int | None:
    """Return the bytes of a tensor, 4-bit elements packed in pairs; None when unknown."""
    count = size(shape)
    if count is None or dtype is None or dtype in (ir.DataType.STRING, ir.DataType.UNDEFINED):
        return None
    return -(-count * int(dtype.bitwidth) // 8)


def tensor_bytes(tensor: ir.TensorProtocol) -> int:
    """Return the bytes of a constant, 4-bit elements packed in pairs, without reading it."""
    packed = nbytes(tensor_shape(tensor), tensor.dtype)
    return int(tensor.nbytes) if packed is None else packed
