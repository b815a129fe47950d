"""Elementwise ops: tables of one integer operand, integer sums and products, and float32."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from qtool.errors import UnsupportedError
from qtool.model import attribute
from qtool.runtime.lower.outputs import clamp_bounds, output_of
from qtool.runtime.lower.state import Lowering
from qtool.runtime.lower.values import Dequantized, Held, channels_last, is_byte
from qtool.runtime.program import Tensor

Float64 = npt.NDArray[np.float64]
Function = Callable[[Float64], Float64]

BINARY = {"Add": 0, "Sub": 1, "Mul": 2, "Div": 3, "Min": 4, "Max": 5, "Pow": 6}
UNARY = {
    "Relu": 0, "Clip": 1, "Sigmoid": 2, "Tanh": 3, "Exp": 4, "Log": 5, "Sqrt": 6, "Erf": 7,
    "Neg": 8, "Abs": 9,
}  # fmt: skip


def unary(lowering: Lowering, node: ir.Node) -> None:
    """Lower a function of one operand: of 8-bit integers it only changes what they stand for."""
    found = lowering.value(node.inputs[0])
    if is_byte(found):
        with np.errstate(all="ignore"):
            reals = function_of(lowering, node)(lowering.by_byte(found))
        lowering.give(node.outputs[0], Dequantized(found.q, found.qparams, reals))
        return
    x = lowering.held(node.inputs[0])
    if node.op_type not in UNARY or x.dtype != "float32":
        raise UnsupportedError(f"it has no form for {x.dtype}")
    alpha, beta = 0.0, 0.0
    if node.op_type == "Clip":
        bounds = clamp_bounds(lowering, node)
        if bounds is None:
            raise UnsupportedError("its bounds are computed at run time")
        alpha, beta = bounds
    y = lowering.make("float32", x.tensor.shape)
    lowering.emit("UnaryFloat", [x.tensor], [y], [UNARY[node.op_type]], [alpha, beta])
    lowering.give(node.outputs[0], Held(y, x.channels_last))


def function_of(lowering: Lowering, node: ir.Node) -> Function:
    """Return what a node computes of one operand, float64 to float64.

    Raises:
        UnsupportedError: it is not known.
    """
    if node.op_type in ("Relu", "Clip"):
        bounds = clamp_bounds(lowering, node)
        if bounds is None:
            raise UnsupportedError("its bounds are computed at run time")
        return lambda x: np.minimum(np.maximum(x, bounds[0]), bounds[1])
    alpha, beta = attribute(node, "alpha"), attribute(node, "beta")
    if node.op_type == "LeakyRelu":
        slope = 0.01 if alpha is None else alpha
        return lambda x: np.where(x < 0, x * slope, x)
    if node.op_type == "HardSigmoid":
        a, b = 0.2 if alpha is None else alpha, 0.5 if beta is None else beta
        return lambda x: np.clip(a * x + b, 0, 1)
    if node.op_type == "Elu":
        a = 1.0 if alpha is None else alpha
        return lambda x: np.where(x < 0, a * np.expm1(x), x)
    if node.op_type == "Gelu":
        return _gelu_tanh if attribute(node, "approximate", "none") == "tanh" else _gelu
    if node.op_type not in FUNCTIONS:
        raise UnsupportedError("it has no form for integers")
    return FUNCTIONS[node.op_type]


def _erf(x: Float64) -> Float64:
    return np.array([math.erf(v) for v in x.tolist()], np.float64)


def _gelu(x: Float64) -> Float64:
    return x / 2 * (1 + _erf(x / math.sqrt(2)))


def _gelu_tanh(x: Float64) -> Float64:
    inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
    return np.asarray(x / 2 * (1 + np.tanh(inner)), np.float64)


FUNCTIONS: dict[str, Function] = {
    "Abs": np.abs,
    "Erf": _erf,
    "Exp": np.exp,
    "HardSwish": lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
    "Log": np.log,
    "Mish": lambda x: x * np.tanh(np.logaddexp(0, x)),
    "Neg": np.negative,
    "Reciprocal": np.reciprocal,
    "Sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "Softplus": lambda x: np.logaddexp(0, x),
    "Softsign": lambda x: x / (1 + np.abs(x)),
    "Sqrt": np.sqrt,
    "Tanh": np.tanh,
}


def binary(lowering: Lowering, node: ir.Node) -> None:
    """Lower a function of two operands that broadcast."""
    for lower in (_with_scalar, _integers):
        if lower(lowering, node):
            return
    operands = [lowering.held(v) for v in node.inputs]
    if any(x.dtype != "float32" for x in operands):
        raise UnsupportedError(f"it has no form for {operands[0].dtype}")
    shape = np.broadcast_shapes(*(x.shape for x in operands))
    tensors, last = aligned(lowering, operands, shape)
    y = lowering.make("float32", channels_last(shape) if last else shape)
    lowering.emit("BinaryFloat", tensors, [y], [BINARY[node.op_type]])
    lowering.give(node.outputs[0], Held(y, last))


def _with_scalar(lowering: Lowering, node: ir.Node) -> bool:
    """Lower a function of an integer operand and a constant scalar, which is a table."""
    for i in (0, 1):
        scalar, found = lowering.known(node.inputs[1 - i]), lowering.value(node.inputs[i])
        if scalar is None or scalar.size != 1 or not is_byte(found):
            continue
        if scalar.ndim > len(lowering.shape(node.inputs[i])):
            continue
        if output_of(lowering, node.outputs[0]) is None and node.op_type not in FLOATS:
            continue
        operands = [lowering.by_byte(found), scalar.astype(np.float64).reshape(())]
        with np.errstate(all="ignore"):
            reals = FLOATS[node.op_type](*(operands if i == 0 else operands[::-1]))
        lowering.give(node.outputs[0], Dequantized(found.q, found.qparams, reals))
        return True
    return False


FLOATS: dict[str, Callable[[Float64, Float64], Float64]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": np.divide,
    "Min": np.minimum,
    "Max": np.maximum,
    "Pow": np.power,
}


def _integers(lowering: Lowering, node: ir.Node) -> bool:
    """Lower Add, Sub and Mul of two 8-bit operands whose result is quantized."""
    if node.op_type not in ("Add", "Sub", "Mul"):
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
    if node.op_type == "Mul":
        m = np.float32(np.float32(a.scale * b.scale) / output.scale)
        lowering.emit("MulInt8", tensors, [y], ints, [float(m)])
    else:
        sign = -1.0 if node.op_type == "Sub" else 1.0
        ratios = (float(a.scale / output.scale), sign * float(b.scale / output.scale))
        lowering.emit("AddInt8", tensors, [y], ints, ratios)
    output.give(lowering, y, channels_last=last)
    return True


def aligned(
    lowering: Lowering, operands: Sequence[Held], shape: Sequence[int]
) -> tuple[list[Tensor], bool]:
    """Return operands in one layout that broadcast to a shape; True when it is channels last."""
    full = [x for x in operands if len(x.shape) == len(shape) > 2]
    if not any(x.channels_last for x in full):
        return [lowering.as_plain(x) for x in operands], False
    tensors = []
    for x in operands:
        if len(x.shape) < len(shape):
            plain = lowering.as_plain(x)
            x = Held(plain.viewed((*[1] * (len(shape) - len(x.shape)), *x.shape)))
        tensors.append(lowering.as_last(x))
    return tensors, True
