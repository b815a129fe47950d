"""The weights of a model's nodes for a report: values, sizes and what quantization did to them.

Shape legend: a histogram has n bins between n + 1 edges.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from qtool.formats.tensors import StoredTensor
from qtool.model import Model, array, attribute, constant, dtype_name
from qtool.qparams import DTYPES
from qtool.quant.integer_form import weights_of
from qtool.quant.qdq_chains import dequantizer, stored_weight
from qtool.shapes import tensor_bytes, tensor_shape
from qtool.stages._layer_sums import sqnr
from qtool.stages.inspect import constants, plain

Array = npt.NDArray[Any]
N_BINS = 64
MAX_ELEMENTS = 1 << 26  # of larger weights no values are read
DISTINCT_ELEMENTS = 1 << 22


@dataclass(frozen=True)
class Bins:
    """Counts of values between edges; other counts a second version of the same tensor."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    other: tuple[int, ...] = ()


@dataclass(frozen=True)
class Weight:
    """One constant weight. ranges: of the channel with the smallest, and with the largest scale.

    bins count the float values, other those that the integers stand for; where only one of them
    is known, bins count that. sqnr: of the stored values against the reference's, in dB.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    n_bytes: int
    codec: str
    n_scales: int
    ranges: tuple[tuple[float, float], ...]
    n_distinct: int | None
    zeros: float | None
    sqnr: float | None
    bins: Bins | None


def node_weights(node: ir.Node, reference: Mapping[str, ir.TensorProtocol]) -> Iterator[Weight]:
    """Yield the weights of a node; reference has the float model's constants by name."""
    for value in weights_of(node):
        stored = stored_weight(value)
        tensor = None if stored is None else constant(stored)
        if stored is None or tensor is None or node.op_type in ("MatMulNBits",):
            continue
        yield _weight(stored.name or "", tensor, dequantizer(value), reference)


def _weight(
    name: str,
    tensor: ir.TensorProtocol,
    dequantize: ir.Node | None,
    reference: Mapping[str, ir.TensorProtocol],
) -> Weight:
    shape, n_bytes = tensor_shape(tensor), stored_bytes(tensor)
    known = Weight(
        name, dtype_name(tensor.dtype), shape, n_bytes, codec_of(tensor), 0, (), None, None, None,
        None,
    )  # fmt: skip
    if int(np.prod(shape, dtype=object)) > MAX_ELEMENTS:
        return known
    values = plain(tensor.numpy())
    if values is None or not values.size:
        return known
    scale = zero = None
    if dequantize is not None:
        scale, zero = _qparams(dequantize, shape)
    real = _real(values, scale, zero)
    if dequantize is None and values.dtype.kind == "f":
        real = values.astype(np.float32)
    original = _original(name, shape, reference)
    return Weight(
        name,
        known.dtype,
        shape,
        n_bytes,
        known.codec,
        0 if dequantize is None or scale is None else _n_scales(dequantize),
        _ranges(known.dtype, scale, zero),
        int(np.unique(values).size) if values.size <= DISTINCT_ELEMENTS else None,
        float(np.count_nonzero(values == (0 if zero is None else zero)) / values.size),
        None if real is None or original is None else _sqnr(real, original),
        bins_of(original if original is not None else real, real if original is not None else None),
    )


def _qparams(node: ir.Node, shape: tuple[int, ...]) -> tuple[Array | None, Array | None]:
    """Return scale and zero point of a DequantizeLinear, shaped to broadcast with its input."""
    scale = array(node.inputs[1])
    if scale is None:
        return None, None
    given = node.inputs[2] if len(node.inputs) > 2 else None
    zero = np.zeros_like(scale, np.int32) if given is None else array(given)
    if zero is None:
        return None, None
    zero = zero.astype(np.int32)
    axis, block = int(attribute(node, "axis", 1)), int(attribute(node, "block_size", 0))
    return tuple(_spread(one, shape, axis, block) for one in (scale.astype(np.float32), zero))  # type: ignore[return-value]


def _spread(values: Array, shape: tuple[int, ...], axis: int, block: int) -> Array:
    if values.size == 1:
        return values.reshape(())
    if block:
        return np.repeat(values, block, axis)[(slice(None),) * axis + (slice(shape[axis]),)]
    lengths = [1] * len(shape)
    lengths[axis] = -1
    return values.reshape(lengths)


def _real(values: Array, scale: Array | None, zero: Array | None) -> Array | None:
    if scale is None or zero is None:
        return None
    with np.errstate(over="ignore"):
        return np.asarray((values.astype(np.int32) - zero) * scale, np.float32)


def _n_scales(node: ir.Node) -> int:
    scale = array(node.inputs[1])
    return 0 if scale is None else int(scale.size)


def _ranges(dtype: str, scale: Array | None, zero: Array | None) -> tuple[tuple[float, float], ...]:
    if scale is None or zero is None or dtype not in DTYPES:
        return ()
    low, high = DTYPES[dtype]
    scales, zeros = np.broadcast_arrays(scale, zero)
    found = []
    for place in (int(scales.argmin()), int(scales.argmax())):
        step, at = float(scales.flat[place]), int(zeros.flat[place])
        found.append(((low - at) * step, (high - at) * step))
    return tuple(dict.fromkeys(found))


def _original(
    name: str, shape: tuple[int, ...], reference: Mapping[str, ir.TensorProtocol]
) -> Array | None:
    tensor = reference.get(name)
    if tensor is None or tensor_shape(tensor) != shape:
        return None
    values = plain(tensor.numpy())
    return None if values is None or values.dtype.kind != "f" else values.astype(np.float32)


def _sqnr(real: Array, original: Array) -> float | None:
    flat = original.reshape(-1).astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        apart = real.reshape(-1) - flat
        return sqnr(float(flat @ flat), float(apart @ apart))


def bins_of(values: Array | None, other: Array | None) -> Bins | None:
    """Return the histogram of the finite values, and of other's in the same bins."""
    if values is None:
        return None
    first = values[np.isfinite(values)]
    second = None if other is None else other[np.isfinite(other)]
    both = [part for part in (first, second) if part is not None and part.size]
    if not both or not first.size:
        return None
    low, high = (float(f(part)) for f, part in ((min, [p.min() for p in both]),
                                                (max, [p.max() for p in both])))  # fmt: skip
    if not low < high:
        low, high = low - (abs(low) or 1.0) / 2, high + (abs(high) or 1.0) / 2
    edges = np.linspace(low, high, N_BINS + 1)
    counts = np.histogram(first, edges)[0]
    others = () if second is None else tuple(map(int, np.histogram(second, edges)[0]))
    return Bins(tuple(map(float, edges)), tuple(map(int, counts)), others)


def float_constants(reference: Model | None) -> dict[str, ir.TensorProtocol]:
    """Return the constants of the float model by name."""
    if reference is None:
        return {}
    return {name: tensor for name, tensor, _ in constants(reference)}


def stored_bytes(tensor: ir.TensorProtocol) -> int:
    """Return the bytes that a constant takes in the file that it comes from."""
    return tensor.stored_bytes if isinstance(tensor, StoredTensor) else tensor_bytes(tensor)


def codec_of(tensor: ir.TensorProtocol) -> str:
    """Return the names of the codecs of a constant: "raw", "rans", "codebook(raw, huffman)"."""
    return tensor.chain() if isinstance(tensor, StoredTensor) else "raw"
