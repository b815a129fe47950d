"""Constant weights of float products: as floats, or as integers that stay small in memory.

Shape legend: a weight is (n, k) in a Program: n outputs, k inputs of each; scales are (n, blocks).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from qtool.errors import UnsupportedError
from qtool.runtime.lower.state import SHIFT, Lowering
from qtool.runtime.lower.values import Dequantized, Known, zeros
from qtool.runtime.program import Array, Tensor

KEPT_SIZE = 4096  # elements; smaller weights become floats when the model is loaded

#: From an array with the weight's axes to (n, ...), the axes that are summed over behind.
Arrange = Callable[[Array], Array]


@dataclass(frozen=True)
class FloatWeight:
    """The operands and parameters by which ops of native/gemm_f32/weights.h take a weight."""

    tensors: tuple[Tensor, Tensor | None, Tensor | None]  # w, scale, zero point
    ints: tuple[int, int]  # bits, block
    n: int
    k: int


def float_weight(
    lowering: Lowering, value: ir.Value | None, arrange: Arrange, channel: int
) -> FloatWeight:
    """Return a weight that must be known; channel is the axis of the n outputs.

    Raises:
        UnsupportedError: it is computed at run time.
    """
    assert value is not None
    found = lowering.value(value)
    if isinstance(found, Dequantized) and isinstance(found.q, Known):
        kept = _integers(lowering, found, arrange, channel)
        if kept is not None:
            return kept
    array = arrange(lowering.need(value, "weight"))
    if array.dtype != np.float32:
        raise UnsupportedError(f"its weight is {array.dtype}")
    n, k = len(array), array.size // max(len(array), 1)
    tensor = lowering.constant(np.ascontiguousarray(array.reshape(n, k)))
    return FloatWeight((tensor, None, None), (32, max(k, 1)), n, k)


def _integers(
    lowering: Lowering, found: Dequantized, arrange: Arrange, channel: int
) -> FloatWeight | None:
    """Return a weight as integers, None where that gains nothing or its scales do not fit."""
    assert isinstance(found.q, Known)
    qparams, q = found.qparams, found.q.array
    if qparams.dtype not in ("int8", "uint8", "int4", "uint4") or q.size < KEPT_SIZE:
        return None
    matrix = arrange(q)
    n, k = len(matrix), matrix.size // len(matrix)
    if found.block:
        if matrix.ndim != 2 or qparams.axis is None or qparams.axis % q.ndim == channel % q.ndim:
            return None
        scale, zero, block = arrange(qparams.scale), arrange(zeros(found)), found.block
        if scale.shape != (n, -(-k // block)):
            return None
    else:
        if qparams.axis is not None and qparams.axis % q.ndim != channel % q.ndim:
            return None
        block = k
        scale, zero = (
            np.broadcast_to(v.reshape(-1, 1), (n, 1)) for v in (qparams.scale, zeros(found))
        )
    four = qparams.dtype in ("int4", "uint4")
    if four and block % 2 and block < k:
        return None
    shift = {"int8": 0, "uint8": -SHIFT, "int4": 8, "uint4": 0}[qparams.dtype]
    signed = (matrix.reshape(n, k).astype(np.int16) + shift).astype(np.int8)
    shifted = (zero.astype(np.int16) + shift).astype(np.int8)
    tensors = (
        lowering.constant(_halves(signed) if four else np.ascontiguousarray(signed)),
        lowering.constant(np.ascontiguousarray(scale, np.float32)),
        lowering.constant(np.ascontiguousarray(shifted)) if shifted.any() else None,
    )
    return FloatWeight(tensors, (4 if four else 8, block), n, k)


def _halves(q: Array) -> Array:
    """Return pairs of 4-bit integers in a byte, (n, (k + 1) / 2), the first in the low half."""
    nibbles = np.pad(q.astype(np.uint8), ((0, 0), (0, q.shape[1] % 2)))
    return np.ascontiguousarray(nibbles[:, ::2] | nibbles[:, 1::2] << 4)
