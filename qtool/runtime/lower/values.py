"""What the tensors of an ONNX graph become while it is lowered.

Shape legend: shapes are ONNX's. A tensor that is channels_last has its axis 1 moved to the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeGuard, TypeVar

import numpy as np
import numpy.typing as npt

from qtool.errors import UnsupportedError
from qtool.qparams import QParams, dequantize
from qtool.runtime.program import Array, Tensor

T = TypeVar("T")

Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Known:
    """A value that does not depend on the inputs of the model."""

    array: Array


@dataclass(frozen=True, eq=False)
class Held:
    """A value that is in memory when the Program runs.

    dtype is ONNX's. int8 values that are operands of integer ops are kept as uint8, 128 higher:
    shifted.
    """

    tensor: Tensor
    channels_last: bool = False
    shifted: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """The dims in ONNX's order."""
        shape = self.tensor.shape
        return channels_first(shape) if self.channels_last else shape

    @property
    def dtype(self) -> str:
        """The element type in ONNX."""
        return "int8" if self.shifted else self.tensor.dtype


@dataclass(frozen=True, eq=False)
class Dequantized:
    """scale * (q - zero_point), not computed before somebody wants the float32 values.

    Or, where an elementwise function came after it, reals[i] for the i-th integer of q's type.
    With block above 0 scale and zero point have q's rank, and one element for that many of q's
    along qparams.axis.
    """

    q: Known | Held
    qparams: QParams
    reals: npt.NDArray[np.float64] | None = None
    block: int = 0


Value = Known | Held | Dequantized


def known_reals(found: Dequantized) -> Float32:
    """Return what a dequantized constant stands for.

    Raises:
        UnsupportedError: its blocks do not cover it.
    """
    assert isinstance(found.q, Known)
    q, qparams = found.q.array.astype(np.int32), found.qparams
    if not found.block:
        return dequantize(q, qparams)
    scale, zero = (spread(v, q.shape, qparams, found.block) for v in (qparams.scale, zeros(found)))
    with np.errstate(over="ignore"):
        return np.asarray((q - zero).astype(np.float32) * scale, np.float32)


def zeros(found: Dequantized) -> Array:
    """Return the zero points of a dequantized value in the shape of its scales."""
    return np.broadcast_to(found.qparams.zero_point, found.qparams.scale.shape)


def spread(values: Array, shape: Sequence[int], qparams: QParams, block: int) -> Array:
    """Return the value of each element's block."""
    assert qparams.axis is not None
    axis = qparams.axis % len(shape)
    wanted = tuple(-(-n // block) if i == axis else n for i, n in enumerate(shape))
    if values.shape != wanted:
        raise UnsupportedError(f"its scales are {list(values.shape)}, not {list(wanted)}")
    return np.repeat(values, block, axis).take(range(shape[axis]), axis)


@dataclass(frozen=True)
class Quantized:
    """An operand of an integer op: uint8 elements with one scale and zero point."""

    tensor: Tensor
    scale: np.float32
    zero_point: int  # of the uint8 elements
    channels_last: bool


def is_byte(value: Value) -> TypeGuard[Dequantized]:
    """Return whether a value is a function of 8-bit integers."""
    if not isinstance(value, Dequantized):
        return False
    return value.qparams.dtype in ("int8", "uint8") and not value.qparams.scale.ndim


def channels_last(items: Sequence[T]) -> tuple[T, ...]:
    """Move axis 1 to the end."""
    return (items[0], *items[2:], items[1]) if len(items) > 2 else tuple(items)


def channels_first(items: Sequence[T]) -> tuple[T, ...]:
    """Move the last axis to place 1."""
    return (items[0], items[-1], *items[1:-1]) if len(items) > 2 else tuple(items)


def shape_of(value: Value) -> tuple[int, ...]:
    """Return the dims of a value in ONNX's order."""
    if isinstance(value, Dequantized):
        return shape_of(value.q)
    return value.array.shape if isinstance(value, Known) else value.shape


def dtype_of(value: Value) -> str:
    """Return the element type that ONNX gives a value."""
    if isinstance(value, Dequantized):
        return "float32"
    return str(value.array.dtype) if isinstance(value, Known) else value.dtype
