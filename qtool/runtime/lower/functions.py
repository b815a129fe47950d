"""Functions of real numbers: what elementwise ops compute, for tables of 8-bit integers."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from qtool.errors import UnsupportedError
from qtool.model import attribute
from qtool.runtime.lower.outputs import clamp_bounds
from qtool.runtime.lower.state import Lowering

Float64 = npt.NDArray[np.float64]
Function = Callable[[Float64], Float64]


def function_of(lowering: Lowering, node: ir.Node) -> Function:
    """Return what a node computes of one operand, float64 to float64.

    Raises:
        UnsupportedError: it is not known.
    """
    if node.op_type in ("Relu", "Clip"):
        low, high = bounds_of(lowering, node)
        return lambda x: np.minimum(np.maximum(x, low), high)
    alpha, beta = parameters_of(lowering, node)
    if node.op_type in PARAMETRIC:
        return lambda x: PARAMETRIC[node.op_type](x, alpha, beta)
    if node.op_type == "Gelu" and attribute(node, "approximate", "none") == "tanh":
        return _gelu_tanh
    if node.op_type not in FUNCTIONS:
        raise UnsupportedError("it has no form for integers")
    return FUNCTIONS[node.op_type]


def bounds_of(lowering: Lowering, node: ir.Node) -> tuple[float, float]:
    """Return the bounds of a Relu or Clip.

    Raises:
        UnsupportedError: they are computed at run time.
    """
    bounds = clamp_bounds(lowering, node)
    if bounds is None:
        raise UnsupportedError("its bounds are computed at run time")
    return bounds


def parameters_of(lowering: Lowering, node: ir.Node) -> tuple[float, float]:
    """Return alpha and beta of a node, ONNX's defaults where it has none; of Clip its bounds."""
    if node.op_type == "Clip":
        return bounds_of(lowering, node)
    default = DEFAULTS.get(node.op_type, (0.0, 0.0))
    second = "gamma" if node.op_type == "Selu" else "beta"
    return attribute(node, "alpha", default[0]), attribute(node, second, default[1])


def _erf(x: Float64) -> Float64:
    return np.array([math.erf(v) for v in x.tolist()], np.float64)


def _gelu(x: Float64) -> Float64:
    return x / 2 * (1 + _erf(x / math.sqrt(2)))


def _gelu_tanh(x: Float64) -> Float64:
    inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
    return np.asarray(x / 2 * (1 + np.tanh(inner)), np.float64)


#: alpha and beta; gamma of Selu is its beta.
DEFAULTS = {
    "LeakyRelu": (0.01, 0.0),
    "HardSigmoid": (0.2, 0.5),
    "Elu": (1.0, 0.0),
    "Selu": (1.67326319217681884765625, 1.05070102214813232421875),
    "Celu": (1.0, 0.0),
    "ThresholdedRelu": (1.0, 0.0),
    "Swish": (1.0, 0.0),
}

#: With alpha and beta.
PARAMETRIC: dict[str, Callable[[Float64, float, float], Float64]] = {
    "LeakyRelu": lambda x, alpha, _: np.where(x < 0, x * alpha, x),
    "HardSigmoid": lambda x, alpha, beta: np.clip(alpha * x + beta, 0, 1),
    "Elu": lambda x, alpha, _: np.where(x < 0, alpha * np.expm1(x), x),
    "Selu": lambda x, alpha, gamma: gamma * np.where(x > 0, x, alpha * np.expm1(x)),
    "Celu": lambda x, alpha, _: np.where(x > 0, x, alpha * np.expm1(x / alpha)),
    "ThresholdedRelu": lambda x, alpha, _: np.where(x > alpha, x, 0),
    "Swish": lambda x, alpha, _: x / (1 + np.exp(-alpha * x)),
}

FUNCTIONS: dict[str, Function] = {
    "Abs": np.abs,
    "Ceil": np.ceil,
    "Cos": np.cos,
    "Erf": _erf,
    "Exp": np.exp,
    "Floor": np.floor,
    "Gelu": _gelu,
    "HardSwish": lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
    "Log": np.log,
    "Mish": lambda x: x * np.tanh(np.logaddexp(0, x)),
    "Neg": np.negative,
    "Reciprocal": np.reciprocal,
    "Round": np.rint,
    "Sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "Sign": np.sign,
    "Sin": np.sin,
    "Softplus": lambda x: np.logaddexp(0, x),
    "Softsign": lambda x: x / (1 + np.abs(x)),
    "Sqrt": np.sqrt,
    "Tan": np.tan,
    "Tanh": np.tanh,
}

#: Of two operands, float64 to float64.
FUNCTIONS_OF_TWO: dict[str, Callable[[Float64, Float64], Float64]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": np.divide,
    "Min": np.minimum,
    "Max": np.maximum,
    "Pow": np.power,
    "PRelu": lambda x, slope: np.where(x < 0, x * slope, x),
}
