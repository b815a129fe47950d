"""Conv, Gemm and MatMul with constant weights, in integers.

Shape legend: weights are (C_out, kernel_h, kernel_w, C_in / group) or (C_out, C_in) in a Program.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from qtool.errors import UnsupportedError
from qtool.model import attribute
from qtool.runtime.lower.outputs import Output, output_of
from qtool.runtime.lower.state import Lowering
from qtool.runtime.lower.values import Dequantized, Float32, Held, Known, Quantized
from qtool.runtime.program import Tensor

Int32 = npt.NDArray[np.int32]
INT32_MAX = 2**31 - 1


@dataclass(frozen=True)
class Weight:
    """Integers and the scale per output channel, (C_out,), or of all, ()."""

    integers: npt.NDArray[np.int8]
    scale: Float32


@dataclass(frozen=True)
class Windows:
    """The spatial attributes of a convolution or pooling: pads as ONNX has them, ends last."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]
    out: tuple[int, ...]


def conv(lowering: Lowering, node: ir.Node) -> None:
    """Lower a convolution of one or two spatial dims."""
    x, weight = lowering.quantized(node.inputs[0]), read_weight(lowering, node.inputs[1], 0)
    if x is None or weight is None:
        raise UnsupportedError("it is not quantized to 8 bits")
    shape = lowering.shape(node.inputs[0])
    windows = read_windows(node, shape[2:], weight.integers.shape[2:])
    if len(shape) not in (3, 4):
        raise UnsupportedError(f"it has {len(shape) - 2} spatial dims")
    bias = read_bias(lowering, node, x, weight)
    tensor = lowering.as_last(Held(x.tensor, x.channels_last))
    image = tensor.viewed(as_image(tensor.shape))
    integers = np.moveaxis(weight.integers, 1, -1)
    integers = integers[:, None] if len(shape) == 3 else integers
    output = output_of(lowering, node.outputs[0])
    y_shape = (shape[0], *windows.out, len(integers))
    y = lowering.make("float32" if output is None else "uint8", y_shape)
    geometry = _pairs(windows) + (attribute(node, "group", 1),)
    _emit(lowering, x, image, Weight(integers, weight.scale), bias, output,
          y.viewed(as_image(y_shape)), geometry)  # fmt: skip
    _give(lowering, node, output, y, channels_last=True)


def gemm(lowering: Lowering, node: ir.Node) -> None:
    """Lower y = x w (+ bias), w as it is or transposed."""
    if attribute(node, "alpha", 1.0) != 1.0 or attribute(node, "beta", 1.0) != 1.0:
        raise UnsupportedError("alpha or beta is not 1")
    if attribute(node, "transA", 0):
        raise UnsupportedError("its first input is transposed")
    _product(lowering, node, 0 if attribute(node, "transB", 0) else 1)


def matmul(lowering: Lowering, node: ir.Node) -> None:
    """Lower a matrix product of an activation and a constant matrix."""
    _product(lowering, node, 1)


def _product(lowering: Lowering, node: ir.Node, axis: int) -> None:
    x, weight = lowering.quantized(node.inputs[0]), read_weight(lowering, node.inputs[1], axis)
    if x is None or weight is None or weight.integers.ndim != 2:
        raise UnsupportedError("it is not a product of 8-bit activations and an 8-bit matrix")
    integers = weight.integers if axis == 0 else weight.integers.T
    weight = Weight(integers, weight.scale)
    bias = read_bias(lowering, node, x, weight)
    tensor = lowering.as_plain(Held(x.tensor, x.channels_last))
    output = output_of(lowering, node.outputs[0])
    y_shape = (*tensor.shape[:-1], len(integers))
    y = lowering.make("float32" if output is None else "uint8", y_shape)
    rows = y.viewed((y.size // y.columns, y.columns))
    matrix = tensor.viewed((tensor.size // tensor.columns, tensor.columns))
    _emit(lowering, x, matrix, weight, bias, output, rows, (1, 1, 1, 1, 0, 0, 0, 0, 1))
    _give(lowering, node, output, y, channels_last=False)


def _give(
    lowering: Lowering, node: ir.Node, output: Output | None, y: Tensor, *, channels_last: bool
) -> None:
    if output is None:
        lowering.give(node.outputs[0], Held(y, channels_last))
    else:
        output.give(lowering, y, channels_last=channels_last)


def _emit(
    lowering: Lowering,
    x: Quantized,
    image: Tensor,
    weight: Weight,
    bias: Int32,
    output: Output | None,
    y: Tensor,
    geometry: tuple[int, ...],
) -> None:
    # float32 operations one by one, as eq. 5 of docs/quantization.md has them.
    product = (weight.scale * x.scale).astype(np.float32)
    multiplier = product if output is None else (product / output.scale).astype(np.float32)
    multiplier = np.ascontiguousarray(np.broadcast_to(multiplier, len(bias)))
    quantization = (0, 0, 255) if output is None else (output.zero_point, output.low, output.high)
    inputs = [
        in_arena(lowering, image),
        lowering.constant(np.ascontiguousarray(weight.integers)),
        lowering.constant(bias),
        lowering.constant(multiplier),
    ]
    ints = (*geometry, x.zero_point, *quantization, 0, 0, 0, 255)
    macs = y.size * (weight.integers.size // len(bias))
    lowering.emit("Conv", [*inputs, None, None, None], [y], ints, [0, 0], macs=macs)


def in_arena(lowering: Lowering, x: Tensor) -> Tensor:
    """Return x, or a copy of it when the caller's memory holds it: kernels read beyond its end."""
    if x.buffer.kind in ("arena", "constant"):
        return x
    y = lowering.make(x.dtype, x.shape)
    ints = (0, 0, x.size, 1, 1)
    lowering.emit("Copy", [x], [y], ints)
    return y


def as_image(shape: Sequence[int]) -> tuple[int, ...]:
    """Return a channels last shape with two spatial dims."""
    return (shape[0], *[1] * (4 - len(shape)), *shape[1:])


def read_weight(lowering: Lowering, value: ir.Value | None, axis: int) -> Weight | None:
    """Return a constant weight as int8 with scales along the axis of its output channels.

    None when it is none, or not symmetric, or wider than 8 bits.
    """
    found = lowering.value(value)
    if not isinstance(found, Dequantized) or not isinstance(found.q, Known):
        return None
    qparams = found.qparams
    if qparams.dtype not in ("int8", "uint8", "int4", "uint4") or found.reals is not None:
        return None
    middle = 128 if qparams.dtype == "uint8" else 8 if qparams.dtype == "uint4" else 0
    if (qparams.zero_point != middle).any():
        return None
    array = found.q.array
    if qparams.axis is not None and qparams.axis % array.ndim != axis:
        return None
    integers = (array.astype(np.int16) - middle).astype(np.int8) if middle else array
    return Weight(integers.astype(np.int8, copy=False), qparams.scale)


def read_bias(lowering: Lowering, node: ir.Node, x: Quantized, weight: Weight) -> Int32:
    """Return the int32 bias per output channel, quantized by eq. 4 where it is not yet."""
    n = len(weight.integers)
    if len(node.inputs) < 3 or node.inputs[2] is None:
        return np.zeros(n, np.int32)
    scale = (weight.scale * x.scale).astype(np.float32)
    found = lowering.value(node.inputs[2])
    if isinstance(found, Dequantized) and isinstance(found.q, Known):
        q, qparams = found.q.array, found.qparams
        same = qparams.scale.shape == scale.shape and np.array_equal(qparams.scale, scale)
        if same and q.dtype == np.int32 and not qparams.zero_point.any():
            return np.ascontiguousarray(np.broadcast_to(q.reshape(-1), n))
    bias = lowering.need(node.inputs[2], "bias").astype(np.float64).reshape(-1)
    steps = np.rint(np.broadcast_to(bias, n) / scale.astype(np.float64))
    return np.clip(steps, -INT32_MAX, INT32_MAX).astype(np.int32)


def read_windows(node: ir.Node, size: Sequence[int], kernel: Sequence[int]) -> Windows:
    """Return the attributes of a convolution or pooling over an image of this spatial size."""
    n = len(size)
    strides = tuple(attribute(node, "strides") or [1] * n)
    dilations = tuple(attribute(node, "dilations") or [1] * n)
    spans = [d * (k - 1) + 1 for d, k in zip(dilations, kernel, strict=True)]
    auto = attribute(node, "auto_pad", "NOTSET")
    pads = tuple(attribute(node, "pads") or [0] * 2 * n)
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        missing = [
            max((-(-i // s) - 1) * s + span - i, 0)
            for i, s, span in zip(size, strides, spans, strict=True)
        ]
        less, more = [m // 2 for m in missing], [m - m // 2 for m in missing]
        pads = (*less, *more) if auto == "SAME_UPPER" else (*more, *less)
    elif auto == "VALID":
        pads = (0,) * 2 * n
    if min(pads) < 0:
        raise UnsupportedError("it has negative pads")
    room = [
        i + pads[a] + pads[a + n] - span
        for a, (i, span) in enumerate(zip(size, spans, strict=True))
    ]
    if attribute(node, "ceil_mode", 0):
        out = [
            _ceil_size(r, s, i, p) for r, s, i, p in zip(room, strides, size, pads[:n], strict=True)
        ]
    else:
        out = [r // s + 1 for r, s in zip(room, strides, strict=True)]
    if min(room) < 0 or min(out) < 1:
        raise UnsupportedError("its kernel is larger than the padded input")
    return Windows(tuple(kernel), strides, dilations, pads, tuple(out))


def _ceil_size(room: int, stride: int, size: int, pad: int) -> int:
    """Return the output size of ceil_mode: no window begins in the padding at the end."""
    out = -(-room // stride) + 1
    return out - 1 if (out - 1) * stride >= size + pad else out


def pair(values: Sequence[int], fill: int) -> tuple[int, ...]:
    """Return values for two spatial dims; the first of one is fill."""
    return (*[fill] * (2 - len(values)), *values)


def _pairs(windows: Windows) -> tuple[int, ...]:
    n = len(windows.kernel)
    begin, end = windows.pads[:n], windows.pads[n:]
    return (
        *pair(windows.strides, 1), *pair(windows.dilations, 1), *pair(begin, 0), *pair(end, 0),
    )  # fmt: skip
