"""Conv, Gemm and MatMul with constant weights, in integers.

Shape legend: weights are (C_out, kernel_h, kernel_w, C_in / group) or (C_out, C_in) in a Program.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from qtool.model import attribute
from qtool.qparams import broadcast
from qtool.runtime.lower import float_linear, wide_linear
from qtool.runtime.lower.integer_bias import Int32, read_bias
from qtool.runtime.lower.outputs import Output, becomes_wide, give, output_of
from qtool.runtime.lower.state import Lowering
from qtool.runtime.lower.values import Dequantized, Float32, Held, Known, Quantized
from qtool.runtime.lower.windows import Windows, as_image, pair, read_windows
from qtool.runtime.program import Tensor


@dataclass(frozen=True)
class Weight:
    """Integers and the scale per output channel, (C_out,), or of all, ()."""

    integers: npt.NDArray[np.int8]
    scale: Float32


def conv(lowering: Lowering, node: ir.Node) -> None:
    """Lower a convolution of one or two spatial dims."""
    x, weight = lowering.quantized(node.inputs[0]), read_weight(lowering, node.inputs[1], 0)
    shape = lowering.shape(node.inputs[0])
    narrow = len(shape) in (3, 4) and not becomes_wide(lowering, node.outputs[0])
    if x is None or weight is None or not narrow:
        if not wide_linear.conv(lowering, node):
            float_linear.conv(lowering, node)
        return
    windows = read_windows(node, shape[2:], weight.integers.shape[2:])
    bias = read_bias(lowering, node, x.scale, weight.scale, len(weight.integers))
    weight = Weight(np.moveaxis(weight.integers, 1, -1), weight.scale)
    output = output_of(lowering, node.outputs[0])
    y = int8_conv(lowering, x, weight, bias, windows, attribute(node, "group", 1), output)
    give(lowering, node, output, y, channels_last=True)


def int8_conv(
    lowering: Lowering,
    x: Quantized,
    weight: Weight,
    bias: Int32,
    windows: Windows,
    group: int,
    output: Output | None,
) -> Tensor:
    """Emit a convolution of one or two spatial dims; weights (C_out, *kernel, C_in / group)."""
    tensor = lowering.as_last(Held(x.tensor, x.channels_last))
    image = tensor.viewed(as_image(tensor.shape))
    integers = weight.integers
    integers = integers[:, None] if integers.ndim == 3 else integers
    y_shape = (image.shape[0], *windows.out, len(integers))
    y = lowering.make("float32" if output is None else "uint8", y_shape)
    _emit(lowering, x, image, Weight(integers, weight.scale), bias, output,
          y.viewed(as_image(y_shape)), (*_pairs(windows), group))  # fmt: skip
    return y


def gemm(lowering: Lowering, node: ir.Node) -> None:
    """Lower y = x w (+ bias), w as it is or transposed."""
    plain = attribute(node, "alpha", 1.0) == 1.0 and attribute(node, "beta", 1.0) == 1.0
    axis = 0 if attribute(node, "transB", 0) else 1
    plain = plain and not attribute(node, "transA", 0)
    if not plain or not (
        _product(lowering, node, axis) or wide_linear.product(lowering, node, axis)
    ):
        float_linear.gemm(lowering, node)


def matmul(lowering: Lowering, node: ir.Node) -> None:
    """Lower a matrix product."""
    if not _product(lowering, node, 1) and not wide_linear.product(lowering, node, 1):
        float_linear.matmul(lowering, node)


def _product(lowering: Lowering, node: ir.Node, axis: int) -> bool:
    """Lower a product of 8-bit activations and a constant 8-bit matrix; False where it is none."""
    x, weight = lowering.quantized(node.inputs[0]), read_weight(lowering, node.inputs[1], axis)
    if x is None or weight is None or weight.integers.ndim != 2:
        return False
    if becomes_wide(lowering, node.outputs[0]):
        return False
    integers = weight.integers if axis == 0 else weight.integers.T
    weight = Weight(integers, weight.scale)
    bias = read_bias(lowering, node, x.scale, weight.scale, len(weight.integers))
    tensor = lowering.as_plain(Held(x.tensor, x.channels_last))
    output = output_of(lowering, node.outputs[0])
    y_shape = (*tensor.shape[:-1], len(integers))
    y = lowering.make("float32" if output is None else "uint8", y_shape)
    rows = y.viewed((y.size // y.columns, y.columns))
    matrix = tensor.viewed((tensor.size // tensor.columns, tensor.columns))
    _emit(lowering, x, matrix, weight, bias, output, rows, (1, 1, 1, 1, 0, 0, 0, 0, 1))
    give(lowering, node, output, y, channels_last=False)
    return True


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
        lowering.constant(weight.integers),  # a view of the file perhaps; packing copies it
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


def read_weight(lowering: Lowering, value: ir.Value | None, axis: int) -> Weight | None:
    """Return a constant weight as int8 with scales along the axis of its output channels.

    None when it is none, wider than 8 bits, or of 8 bits and not symmetric.
    """
    found = lowering.value(value)
    if not isinstance(found, Dequantized) or not isinstance(found.q, Known) or found.block:
        return None
    qparams = found.qparams
    if qparams.dtype not in ("int8", "uint8", "int4", "uint4") or found.reals is not None:
        return None
    few = qparams.dtype.endswith("int4")  # q - zero_point then fits int8
    middle = 128 if qparams.dtype == "uint8" else 0
    if not few and (qparams.zero_point != middle).any():
        return None
    array = found.q.array
    if qparams.axis is not None and qparams.axis % array.ndim != axis:
        return None
    zero = broadcast(qparams, array.ndim)[1].astype(np.int16) if few else middle
    integers = (array.astype(np.int16) - zero).astype(np.int8) if np.any(zero) else array
    return Weight(integers.astype(np.int8, copy=False), qparams.scale)


def _pairs(windows: Windows) -> tuple[int, ...]:
    n = len(windows.kernel)
    begin, end = windows.pads[:n], windows.pads[n:]
    return (
        *pair(windows.strides, 1), *pair(windows.dilations, 1), *pair(begin, 0), *pair(end, 0),
    )  # fmt: skip
