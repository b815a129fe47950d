"""Integer products that the int8 kernels do not take, by ConvWide and MatMulWide.

Weights with zero points, activations of 16 bits, three spatial dims, two activations, and zero
points that are known at run time: ConvInteger and MatMulInteger.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from qtool.errors import UnsupportedError
from qtool.model import attribute
from qtool.runtime.lower.float_linear import as_volume, volume_ints
from qtool.runtime.lower.integer_bias import read_bias
from qtool.runtime.lower.layout import dense
from qtool.runtime.lower.outputs import WIDE, Output, give, output_of
from qtool.runtime.lower.state import SHIFT, Lowering
from qtool.runtime.lower.values import Dequantized, Float32, Held, Known, Quantized
from qtool.runtime.lower.windows import Windows, read_windows
from qtool.runtime.program import Array, Tensor

Int8 = npt.NDArray[np.int8]
NO_WINDOWS = Windows((1,), (1,), (1,), (0, 0), (1,))


@dataclass(frozen=True)
class WideWeight:
    """int8 integers with their output channels first, the depth last; zero points (C_out,)."""

    integers: Int8
    zero: Int8
    scale: Float32  # (C_out,) or ()


@dataclass(frozen=True)
class Operand:
    """Integers with a zero point that is known, or a tensor."""

    tensor: Tensor
    zero: int
    zero_tensor: Tensor | None = None
    channels_last: bool = False


@dataclass(frozen=True)
class Result:
    """What the sums become: int32, or reals by a scale, or integers by a scale."""

    dtype: str
    scale: Tensor | None
    ints: tuple[int, int, int] = (0, 0, 0)  # zero point, low, high


def conv(lowering: Lowering, node: ir.Node) -> bool:
    """Lower a quantized convolution of one to three spatial dims; False where it is none."""
    x = lowering.quantized(node.inputs[0], wide=True)
    weight = read_wide_weight(lowering, node.inputs[1], 0)
    shape = lowering.shape(node.inputs[0])
    if x is None or weight is None or not 3 <= len(shape) <= 5:
        return False
    bias = read_bias(lowering, node, x.scale, weight.scale, len(weight.integers))
    weight = _arranged(weight, (0, *range(2, len(shape)), 1))
    windows = read_windows(node, shape[2:], weight.integers.shape[1:-1])
    output = output_of(lowering, node.outputs[0], WIDE)
    group = attribute(node, "group", 1)
    y = quantized_conv(lowering, x, weight, bias, windows, group, output)
    give(lowering, node, output, y, channels_last=True)
    return True


def quantized_conv(
    lowering: Lowering,
    x: Quantized,
    weight: WideWeight,
    bias: Array,
    windows: Windows,
    group: int,
    output: Output | None,
) -> Tensor:
    """Emit a convolution of quantized operands and return its result, channels last."""
    result = _result(lowering, _product_scale(x.scale, weight.scale, len(bias)), output)
    return _convolved(lowering, _operand(x), weight, bias, windows, group, result)


def product(lowering: Lowering, node: ir.Node, axis: int) -> bool:
    """Lower a quantized product with a constant matrix, or of two activations.

    axis is that of the second operand's columns. False where it is not quantized.
    """
    x = lowering.quantized(node.inputs[0], wide=True)
    if x is None:
        return False
    shape = lowering.shape(node.inputs[1])
    weight = read_wide_weight(lowering, node.inputs[1], axis) if len(shape) == 2 else None
    if weight is None:
        return node.op_type == "MatMul" and _of_activations(lowering, node, x)
    if len(x.tensor.shape) < 2:
        return False
    bias = read_bias(lowering, node, x.scale, weight.scale, shape[axis])
    output = output_of(lowering, node.outputs[0], WIDE)
    result = _result(lowering, _product_scale(x.scale, weight.scale, len(bias)), output)
    y = _rows_times(lowering, _operand(x), _arranged(weight, (axis, 1 - axis)), bias, result)
    give(lowering, node, output, y, channels_last=False)
    return True


def conv_integer(lowering: Lowering, node: ir.Node) -> None:
    """Lower ConvInteger."""
    shape = lowering.shape(node.inputs[0])
    if not 3 <= len(shape) <= 5:
        raise UnsupportedError(f"it has {len(shape) - 2} spatial dims")
    x = _integers(lowering, node, 0)
    weight = _integer_weight(lowering, node, 0)
    weight = _arranged(weight, (0, *range(2, len(shape)), 1))
    windows = read_windows(node, shape[2:], weight.integers.shape[1:-1])
    group = attribute(node, "group", 1)
    y = _convolved(lowering, x, weight, None, windows, group, Result("int32", None))
    lowering.give(node.outputs[0], Held(y, channels_last=True))


def matmul_integer(lowering: Lowering, node: ir.Node) -> None:
    """Lower MatMulInteger."""
    a, shape = _integers(lowering, node, 0), lowering.shape(node.inputs[1])
    known = lowering.known(node.inputs[1])
    if known is not None and len(shape) == 2 and len(a.tensor.shape) > 1:
        weight = _arranged(_integer_weight(lowering, node, 1), (1, 0))
        y = _rows_times(lowering, a, weight, None, Result("int32", None))
    else:
        b = _integers(lowering, node, 1)
        y = _times(lowering, a, b, Result("int32", None))
    lowering.give(node.outputs[0], Held(y))


def read_wide_weight(lowering: Lowering, value: ir.Value | None, axis: int) -> WideWeight | None:
    """Return a constant weight of at most 8 bits with scales along the axis of its outputs."""
    found = lowering.value(value)
    if not isinstance(found, Dequantized) or not isinstance(found.q, Known):
        return None
    qparams, q = found.qparams, found.q.array
    if qparams.dtype not in ("int8", "uint8", "int4", "uint4") or found.reals is not None:
        return None
    if found.block or (qparams.axis is not None and qparams.axis % q.ndim != axis):
        return None
    return _signed(q, qparams.zero_point, qparams.scale, q.shape[axis], qparams.dtype)


def _signed(q: Array, zero: Array, scale: Float32, n: int, dtype: str) -> WideWeight:
    shift = SHIFT if dtype == "uint8" else 0
    integers = (q.astype(np.int16) - shift).astype(np.int8)
    zeros = np.broadcast_to(zero.astype(np.int16).reshape(-1) - shift, n).astype(np.int8)
    return WideWeight(integers, np.ascontiguousarray(zeros), scale)


def _arranged(weight: WideWeight, order: tuple[int, ...]) -> WideWeight:
    integers = np.ascontiguousarray(weight.integers.transpose(order))
    return WideWeight(integers, weight.zero, weight.scale)


def _product_scale(x: np.float32, w: Float32, n: int) -> Float32:
    return np.broadcast_to((w * x).astype(np.float32), n)


def _result(lowering: Lowering, product_scale: Float32, output: Output | None) -> Result:
    if output is None:
        return Result("float32", lowering.constant(np.ascontiguousarray(product_scale)))
    multiplier = np.ascontiguousarray((product_scale / output.scale).astype(np.float32))
    ints = (output.zero_point, output.low, output.high)
    return Result(output.dtype, lowering.constant(multiplier), ints)


def _operand(x: Quantized) -> Operand:
    return Operand(x.tensor, x.zero_point, None, x.channels_last)


def _convolved(
    lowering: Lowering,
    x: Operand,
    weight: WideWeight,
    bias: Array | None,
    windows: Windows,
    group: int,
    result: Result,
) -> Tensor:
    """Emit a convolution and return its result, channels last."""
    image = lowering.as_last(Held(x.tensor, x.channels_last))
    y = lowering.make(result.dtype, (image.shape[0], *windows.out, len(weight.integers)))
    _emit(lowering, x, image, weight, bias, windows, group, result, y)
    return y


def _rows_times(
    lowering: Lowering, x: Operand, weight: WideWeight, bias: Array | None, result: Result
) -> Tensor:
    """Emit a product of rows and a weight (n, k) and return its result."""
    rows = dense(lowering, lowering.as_plain(Held(x.tensor, x.channels_last)))
    y = lowering.make(result.dtype, (*rows.shape[:-1], len(weight.integers)))
    line = rows.viewed((1, rows.size // rows.columns, rows.columns))
    made = y.viewed((1, y.size // y.columns, y.columns))
    _emit(lowering, x, line, weight, bias, NO_WINDOWS, 1, result, made)
    return y


def _emit(
    lowering: Lowering,
    x: Operand,
    image: Tensor,
    weight: WideWeight,
    bias: Array | None,
    windows: Windows,
    group: int,
    result: Result,
    y: Tensor,
) -> None:
    inputs = [
        image.viewed(as_volume(image.shape)),
        lowering.constant(weight.integers),
        lowering.constant(bias) if bias is not None and bias.any() else None,
        result.scale,
        lowering.constant(weight.zero) if weight.zero.any() else None,
        x.zero_tensor,
        None,
    ]
    ints = (*volume_ints(windows), group, x.zero, *result.ints)
    macs = y.size * (weight.integers.size // len(weight.integers))
    lowering.emit("ConvWide", inputs, [y.viewed(as_volume(y.shape))], ints, macs=macs)


def _of_activations(lowering: Lowering, node: ir.Node, a: Quantized) -> bool:
    """Lower a product of two quantized activations."""
    b = lowering.quantized(node.inputs[1], wide=True)
    if b is None:
        return False
    output = output_of(lowering, node.outputs[0], WIDE)
    scale = np.reshape(np.float32(a.scale * b.scale), 1)
    result = _result(lowering, scale, output)
    y = _times(lowering, _operand(a), _operand(b), result)
    give(lowering, node, output, y, channels_last=False)
    return True


def _times(lowering: Lowering, a: Operand, b: Operand, result: Result) -> Tensor:
    """Emit a product of two matrices, or batches of them, or vectors, and return its result."""
    left, right = (
        dense(lowering, lowering.as_plain(Held(x.tensor, x.channels_last))) for x in (a, b)
    )
    row, column = len(left.shape) == 1, len(right.shape) == 1
    left = left.viewed((1, *left.shape)) if row else left
    right = right.viewed((*right.shape, 1)) if column else right
    batch = np.broadcast_shapes(left.shape[:-2], right.shape[:-2])
    y = lowering.make(result.dtype, (*batch, left.shape[-2], right.shape[-1]))
    inputs = [left, right, result.scale, a.zero_tensor, b.zero_tensor]
    macs = y.size * left.columns
    lowering.emit("MatMulWide", inputs, [y], (a.zero, b.zero, *result.ints), macs=macs)
    shape = [n for i, n in enumerate(y.shape[-2:]) if not (row, column)[i]]
    return y.viewed((*batch, *shape))


def _integers(lowering: Lowering, node: ir.Node, i: int) -> Operand:
    """Return an operand of ConvInteger or MatMulInteger with its zero point, input i + 2."""
    held = lowering.unsigned(lowering.plain_value(node.inputs[i]))
    if held.tensor.dtype != "uint8":
        raise UnsupportedError(f"it multiplies {held.dtype}")
    shift = SHIFT if held.shifted else 0
    value = node.inputs[i + 2] if len(node.inputs) > i + 2 else None
    known = lowering.known(value)
    if value is None or (known is not None and known.size == 1):
        zero = 0 if known is None else int(known.reshape(-1)[0])
        return Operand(held.tensor, zero + shift, None, held.channels_last)
    zeros = lowering.unsigned(lowering.plain_value(value)).tensor
    return Operand(held.tensor, 0, zeros, held.channels_last)


def _integer_weight(lowering: Lowering, node: ir.Node, axis: int) -> WideWeight:
    """Return the constant second operand of ConvInteger or MatMulInteger."""
    q = lowering.need(node.inputs[1], "weight")
    value = node.inputs[3] if len(node.inputs) > 3 else None
    zero = np.zeros((), q.dtype) if value is None else lowering.need(value, "weight's zero point")
    if zero.size not in (1, q.shape[axis]):
        raise UnsupportedError("its weight's zero points do not fit")
    return _signed(q, zero, np.ones((), np.float32), q.shape[axis], str(q.dtype))
