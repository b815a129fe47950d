"""Constants computed from constants: now when small, on demand when large.

So a pass over a model of many gigabytes holds one large tensor at a time: when it is written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

Array = npt.NDArray[Any]

LAZY_BYTES = 1 << 16  # above this, the result is computed when it is read


def derived(
    compute: Callable[..., Array],
    *sources: ir.TensorProtocol,
    dtype: ir.DataType,
    shape: Sequence[int],
) -> ir.TensorProtocol:
    """Return the tensor compute(*arrays of the sources), cast to dtype, of the given shape."""

    def evaluate() -> ir.TensorProtocol:
        values = np.asarray(compute(*map(read, sources)))
        values = np.ascontiguousarray(values.astype(dtype.numpy(), copy=False)).reshape(shape)
        return ir.Tensor(values, dtype=dtype)

    dims = ir.Shape(shape)
    if int(np.prod(shape)) * dtype.itemsize <= LAZY_BYTES:
        return evaluate()
    return ir.LazyTensor(evaluate, dtype=dtype, shape=dims)


def read(tensor: ir.TensorProtocol) -> Array:
    """Return the values of a tensor, without leaving the file that they are in mapped."""
    if isinstance(tensor, ir.ExternalTensor):
        tensor = ir.ExternalTensor(
            tensor.location, tensor.offset, tensor.length, tensor.dtype,
            shape=tensor.shape, name=tensor.name, base_dir=tensor.base_dir,
        )  # fmt: skip
    return np.asarray(tensor.numpy())


def dims(tensor: ir.TensorProtocol) -> tuple[int, ...]:
    """Return the shape of a tensor as plain numbers."""
    return tuple(int(d) for d in tensor.shape)  # type: ignore[arg-type]
