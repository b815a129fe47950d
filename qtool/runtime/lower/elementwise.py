"""Elementwise ops: tables of one integer operand, integer sums and products, and float32."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from qtool.model import attribute
from qtool.qparams import quantize
from qtool.runtime.lower import typed
from qtool.runtime.lower.functions import FUNCTIONS_OF_TWO, function_of, parameters_of
from qtool.runtime.lower.layout import aligned
from qtool.runtime.lower.outputs import output_of
from qtool.runtime.lower.state import SHIFT, Lowering
from qtool.runtime.lower.values import Dequantized, Held, channels_last, is_byte
from qtool.runtime.program import Array

# The numbers of native/ops/float_elementwise.cpp and native/elementwise/kernels.h.
BINARY = {
    "Add": 0, "Sub": 1, "Mul": 2, "Div": 3, "Min": 4, "Max": 5, "Pow": 6, "PRelu": 7,
}  # fmt: skip
UNARY = {
    "Relu": 0, "Clip": 1, "Sigmoid": 2, "Tanh": 3, "Exp": 4, "Log": 5, "Sqrt": 6, "Erf": 7,
    "Neg": 8, "Abs": 9, "LeakyRelu": 10, "Elu": 11, "HardSigmoid": 12, "HardSwish": 13, "Gelu": 14,
    "Softplus": 17, "Softsign": 18, "Reciprocal": 19, "Floor": 20, "Ceil": 21, "Round": 22,
    "Sign": 23, "Sin": 24, "Cos": 25, "Mish": 26, "Selu": 27, "Celu": 28, "ThresholdedRelu": 29,
    "Tan": 30, "Swish": 31,
}  # fmt: skip
GELU_TANH = 15


def unary(lowering: Lowering, node: ir.Node) -> None:
    """Lower a function of one operand: of 8-bit integers it only changes what they stand for."""
    found = lowering.value(node.inputs[0])
    if is_byte(found):
        with np.errstate(all="ignore"):
            reals = function_of(lowering, node)(lowering.by_byte(found))
        lowering.give(node.outputs[0], Dequantized(found.q, found.qparams, reals))
        return
    x = lowering.held(node.inputs[0])
    if x.dtype != "float32":
        typed.unary(lowering, node)
        return
    tanh = node.op_type == "Gelu" and attribute(node, "approximate", "none") == "tanh"
    function = GELU_TANH if tanh else UNARY[node.op_type]
    y = lowering.make("float32", x.tensor.shape)
    floats = parameters_of(lowering, node)
    lowering.emit("UnaryFloat", [x.tensor], [y], [function], floats)
    lowering.give(node.outputs[0], Held(y, x.channels_last))


def binary(lowering: Lowering, node: ir.Node) -> None:
    """Lower a function of two operands that broadcast, or of any number one after the other."""
    if len(node.inputs) != 2 or node.op_type in ("Sum", "Mean"):
        _many(lowering, node)
        return
    if node.op_type == "Pow" and {lowering.dtype(v) for v in node.inputs} != {"float32"}:
        typed.power(lowering, node)
        return
    if _with_scalar(lowering, node) or _with_channels(lowering, node):
        return
    if _integers(lowering, node, node.op_type):
        return
    operands = [lowering.held(v) for v in node.inputs]
    lowering.give(node.outputs[0], _floats(lowering, node.op_type, operands))


def _many(lowering: Lowering, node: ir.Node) -> None:
    """Lower Sum, Min, Max and Mean of any number of operands."""
    op = "Add" if node.op_type in ("Sum", "Mean") else node.op_type
    if node.op_type == "Sum" and len(node.inputs) == 2 and _integers(lowering, node, op):
        return
    made = lowering.held(node.inputs[0])
    for value in node.inputs[1:]:
        made = _floats(lowering, op, [made, lowering.held(value)])
    if node.op_type == "Mean":
        count = lowering.constant(np.array(len(node.inputs), np.float32))
        made = _floats(lowering, "Div", [made, Held(count)])
    lowering.give(node.outputs[0], made)


def _floats(lowering: Lowering, op: str, operands: Sequence[Held]) -> Held:
    if any(x.dtype != "float32" for x in operands):
        return typed.binary_of(lowering, op, operands)
    shape = np.broadcast_shapes(*(x.shape for x in operands))
    tensors, last = aligned(lowering, operands, shape)
    y = lowering.make("float32", channels_last(shape) if last else shape)
    lowering.emit("BinaryFloat", tensors, [y], [BINARY[op]])
    return Held(y, last)


def _with_scalar(lowering: Lowering, node: ir.Node) -> bool:
    """Lower a function of an integer operand and a constant scalar, which is a table."""
    for i in (0, 1):
        scalar, found = lowering.known(node.inputs[1 - i]), lowering.value(node.inputs[i])
        if scalar is None or scalar.size != 1 or not is_byte(found):
            continue
        if scalar.ndim > len(lowering.shape(node.inputs[i])):
            continue
        operands = [lowering.by_byte(found), scalar.astype(np.float64).reshape(())]
        with np.errstate(all="ignore"):
            reals = FUNCTIONS_OF_TWO[node.op_type](*(operands if i == 0 else operands[::-1]))
        lowering.give(node.outputs[0], Dequantized(found.q, found.qparams, reals))
        return True
    return False


def _with_channels(lowering: Lowering, node: ir.Node) -> bool:
    """Lower a function of an integer operand and a float constant per channel: a table for each.

    A constant that is quantized itself is left to integer arithmetic.
    """
    output = output_of(lowering, node.outputs[0])
    for i in (0, 1):
        found, other = lowering.value(node.inputs[i]), lowering.value(node.inputs[1 - i])
        if output is None or not is_byte(found) or not isinstance(found.q, Held):
            continue
        if isinstance(other, Dequantized) and node.op_type in ("Add", "Sub", "Mul"):
            continue
        constant = lowering.known(node.inputs[1 - i])
        channels = None if constant is None else _per_channel(constant, found.q.shape)
        if channels is None:
            continue
        operands = [lowering.by_byte(found)[None, :], channels[:, None]]
        with np.errstate(all="ignore"):
            reals = FUNCTIONS_OF_TWO[node.op_type](*(operands if i == 0 else operands[::-1]))
            table = quantize(reals.astype(np.float32), output.qparams)
        table = np.clip(table + SHIFT * (output.qparams.dtype == "int8"), output.low, output.high)
        y = lowering.table(lowering.as_last(lowering.unsigned(found.q)), table.astype(np.uint8))
        output.give(lowering, y, channels_last=True)
        return True
    return False


def _per_channel(constant: Array, shape: Sequence[int]) -> Array | None:
    """Return the element of each channel, float64 (C,), where a constant differs by axis 1 only."""
    if constant.ndim > len(shape) or len(shape) < 2:
        return None
    full = constant.reshape((1,) * (len(shape) - constant.ndim) + constant.shape)
    if any(n != 1 for axis, n in enumerate(full.shape) if axis != 1):
        return None
    return np.broadcast_to(full.reshape(-1), shape[1]).astype(np.float64)


def _integers(lowering: Lowering, node: ir.Node, op: str) -> bool:
    """Lower Add, Sub and Mul of two 8-bit operands whose result is quantized."""
    if op not in ("Add", "Sub", "Mul"):
        return False
    a, b = (lowering.quantized(v) for v in node.inputs)
    output = output_of(lowering, node.outputs[0])
    if a is None or b is None or output is None:
        return False
    operands = [Held(x.tensor, x.channels_last) for x in (a, b)]
    shape = np.broadcast_shapes(*(x.shape for x in operands))
    tensors, last = aligned(lowering, operands, shape)
    y = lowering.make("uint8", channels_last(shape) if last else shape)
    ints = (a.zero_point, b.zero_point, output.zero_point, output.low, output.high)
    if op == "Mul":
        m = np.float32(np.float32(a.scale * b.scale) / output.scale)
        lowering.emit("MulInt8", tensors, [y], ints, [float(m)])
    else:
        sign = -1.0 if op == "Sub" else 1.0
        ratios = (float(a.scale / output.scale), sign * float(b.scale / output.scale))
        lowering.emit("AddInt8", tensors, [y], ints, ratios)
    output.give(lowering, y, channels_last=last)
    return True
