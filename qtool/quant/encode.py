"""A float weight as DequantizeLinear takes it: integers, scale, zero point, axis and block size.

Shape legend: a weight has any shape; C is its size along the channel axis, K along the depth
axis. Per channel the scale has shape (C,); in blocks of B it has the weight's shape with K
replaced by ceil(K / B), as ONNX defines since opset 21.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from qtool.qparams import Float32, QParams, limits
from qtool.quant.layer_rounding import Rounder, Spread
from qtool.quant.weights import STORAGE, WEIGHT_METHODS, to_storage
from qtool.registry import lookup

FLOAT_TYPES = {
    ir.DataType.FLOAT: np.float32,
    ir.DataType.FLOAT16: np.float16,
    ir.DataType.BFLOAT16: ml_dtypes.bfloat16,
    ir.DataType.DOUBLE: np.float32,  # DequantizeLinear has no double form: a Cast follows it
}
BLOCK_SIZE = 32  # for 3 and 4 bits; what onnxruntime's MatMulNBits kernels are tuned for


@dataclass(frozen=True)
class WeightScheme:
    """How to quantize weights.

    block_size cuts the depth into blocks with a scale each; 0 never does; None does for types of
    3 and 4 bits, in blocks of BLOCK_SIZE.
    """

    dtype: str = "int8"
    method: str = "minmax"
    per_channel: bool = True
    symmetric: bool = True
    narrow: bool = True
    block_size: int | None = None

    @property
    def n_block(self) -> int:
        """The block size, or 0 for none."""
        if self.block_size is None:
            return BLOCK_SIZE if self.dtype.endswith(("3", "4")) else 0
        return self.block_size


@dataclass(frozen=True)
class Encoded:
    """The inputs and attributes of a DequantizeLinear that gives the weight back."""

    integers: ir.TensorProtocol
    scale: npt.NDArray[Any]
    zero_point: npt.NDArray[Any] | None  # None where it is 0 everywhere
    axis: int | None
    block_size: int = 0


def encode(
    tensor: ir.TensorProtocol, scheme: WeightScheme, axis: int | None, depth: int
) -> Encoded | None:
    """Return the quantized form of a float tensor, or None where it holds NaN or infinity.

    axis is the weight's channel axis, depth the one that is summed over. The integers of a
    tensor that is mapped from a file are computed when they are read, so that a model larger
    than the memory can be quantized and written tensor by tensor.
    """
    weight = _values(tensor)
    if not np.isfinite(np.min(weight)) or not np.isfinite(np.max(weight)):
        return None
    blocks = _Blocks(weight.shape, depth, scheme.n_block) if _cut(weight, scheme, depth) else None
    rows = weight if blocks is None else blocks.rows(weight)
    choose = lookup(WEIGHT_METHODS, scheme.method, "weight method")
    row_axis = 0 if blocks is not None else axis if scheme.per_channel else None
    options = {"dtype": scheme.dtype, "symmetric": scheme.symmetric, "narrow": scheme.narrow}
    qparams = choose(rows, axis=row_axis, **options)  # type: ignore[arg-type]
    scale = _scale_for(tensor.dtype, qparams.scale)
    qparams = replace(qparams, scale=scale.astype(np.float32))
    zero = qparams.zero_point.astype(STORAGE[scheme.dtype]) if qparams.zero_point.any() else None
    if blocks is not None:
        scale, zero = blocks.grid(scale), None if zero is None else blocks.grid(zero)
    del weight, rows
    integers = _integers(tensor, qparams, blocks)
    return Encoded(
        integers, scale, zero, depth if blocks else row_axis, blocks.size if blocks else 0
    )


def rounded(
    tensor: ir.TensorProtocol,
    encoded: Encoded,
    scheme: WeightScheme,
    rounder: Rounder,
    users: Sequence[ir.Node],
    *,
    corrects: bool,
) -> tuple[ir.TensorProtocol, npt.NDArray[Any], npt.NDArray[np.float64] | None] | None:
    """Return integers, scale and the shift of the bias by the error of the output of users.

    None where the rounder does not know what they read. encoded has the scales to start from.
    """
    weight = _values(tensor)
    zero = np.zeros((), np.int32) if encoded.zero_point is None else encoded.zero_point
    which = np.arange(encoded.scale.size).reshape(encoded.scale.shape)
    parts = (encoded.scale.astype(np.float64), zero.astype(np.float64), which)
    spread = Spread(*(_spread(part, weight.shape, encoded) for part in parts))
    ends = limits(scheme.dtype, narrow=scheme.narrow)
    found = rounder.spread(weight, spread, ends, users, corrects=corrects)
    if found is None:
        return None
    made = spread.stored(found.scale, encoded.scale.size).reshape(encoded.scale.shape)
    integers = ir.Tensor(found.integers.astype(STORAGE[scheme.dtype]))
    return integers, made.astype(encoded.scale.dtype), found.shift


def _spread(values: npt.NDArray[Any], shape: tuple[int, ...], encoded: Encoded) -> Any:
    """Return scales or zero points of a weight, one for each of its elements."""
    axis = encoded.axis or 0
    if encoded.block_size and values.ndim:
        return np.repeat(values, encoded.block_size, axis).take(np.arange(shape[axis]), axis)
    along = [-1 if i == axis else 1 for i in range(len(shape))]
    return np.broadcast_to(values.reshape(along) if values.ndim else values, shape)


def _values(tensor: ir.TensorProtocol) -> Float32:
    return np.asarray(tensor.numpy().astype(np.float32, copy=False))


def _cut(weight: Float32, scheme: WeightScheme, depth: int) -> bool:
    """Return whether to quantize in blocks: a depth of less than a block gains nothing."""
    return bool(scheme.n_block) and weight.ndim >= 2 and weight.shape[depth] >= scheme.n_block


def _scale_for(dtype: ir.DataType, scale: Float32) -> npt.NDArray[Any]:
    """Return the scale in the type that DequantizeLinear has to give; never rounded to 0."""
    target = FLOAT_TYPES[dtype]
    tiny = np.float32(ml_dtypes.finfo(target).tiny)
    return np.asarray(np.maximum(scale, tiny), target)


def _integers(
    tensor: ir.TensorProtocol, qparams: QParams, blocks: _Blocks | None
) -> ir.TensorProtocol:
    dtype = ir.DataType.from_numpy(np.dtype(STORAGE[qparams.dtype]))

    def compute() -> ir.TensorProtocol:
        weight = _values(tensor)
        rows = weight if blocks is None else blocks.rows(weight)
        stored = to_storage(rows, qparams)
        return ir.Tensor(stored if blocks is None else blocks.unrows(stored))

    if isinstance(tensor, (ir.ExternalTensor, ir.LazyTensor)):
        return ir.LazyTensor(compute, dtype=dtype, shape=ir.Shape(tensor.shape))
    return compute()


class _Blocks:
    """A weight as rows of one block each, shape (blocks, B); the last of a depth may be padded."""

    def __init__(self, shape: tuple[int, ...], depth: int, size: int) -> None:
        self.size, self._depth, self._k = size, depth, shape[depth]
        others = [d for i, d in enumerate(shape) if i != depth]
        self._grid = (*others, -(-self._k // size))

    def rows(self, weight: Float32) -> Float32:
        last = np.moveaxis(weight, self._depth, -1)
        missing = self._grid[-1] * self.size - self._k
        if missing:  # zeros are in every range and so change none
            last = np.pad(last, [(0, 0)] * (last.ndim - 1) + [(0, missing)])
        return np.ascontiguousarray(last).reshape(-1, self.size)

    def unrows(self, rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
        last = rows.reshape(*self._grid[:-1], -1)[..., : self._k]
        return np.ascontiguousarray(np.moveaxis(last, -1, self._depth))

    def grid(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return np.ascontiguousarray(np.moveaxis(values.reshape(self._grid), -1, self._depth))
