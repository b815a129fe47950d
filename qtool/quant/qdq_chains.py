"""From a float tensor to the QuantizeLinear and DequantizeLinear nodes around it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from qtool.model import array, attribute, constant, dtype_name
from qtool.qparams import DTYPES, limits
from qtool.quant.op_rules import CLAMPS, rule_of

THROUGH = ("QuantizeLinear", "DequantizeLinear", "Cast", "Transpose")
MAX_HOPS = 16  # nodes that only move elements, one after the other


def dequantizer(value: ir.Value) -> ir.Node | None:
    """Return the DequantizeLinear behind a value, seen through nodes that only move elements."""
    producer = value.producer()
    for _ in range(MAX_HOPS):
        if producer is None or _is(producer, "DequantizeLinear"):
            return producer
        source = operand(producer, 0)
        if source is None or not moves(producer):
            return None
        producer = source.producer()
    return None


def quantizers(value: ir.Value) -> list[ir.Node] | None:
    """Return the QuantizeLinear nodes that read a value; None when something else reads it too.

    Seen through nodes that only move elements, and through each Relu or Clip that the saturation
    of its QuantizeLinear repeats.
    """
    found: list[ir.Node] = []
    waiting: list[tuple[ir.Value, tuple[ir.Node, ...]]] = [(value, ())]
    for _ in range(MAX_HOPS):
        if not waiting:
            return found or None
        current, clamps = waiting.pop()
        if current.is_graph_output():
            return None
        for user in current.consumers():
            if _is(user, "QuantizeLinear"):
                if not all(_repeats(user, clamp) for clamp in clamps):
                    return None
                found.append(user)
            elif user.op_type in CLAMPS and len(user.outputs) == 1:
                waiting.append((user.outputs[0], (*clamps, user)))
            elif moves(user):
                waiting.append((user.outputs[0], clamps))
            else:
                return None
    return None


def operand(node: ir.Node, index: int) -> ir.Value | None:
    """Return an input of a node, or None where it has none."""
    return node.inputs[index] if index < len(node.inputs) else None


def _is(node: ir.Node, op_type: str) -> bool:
    """Return whether a node is a whole QuantizeLinear or DequantizeLinear."""
    if node.op_type != op_type or len(node.outputs) != 1:
        return False
    return operand(node, 0) is not None and operand(node, 1) is not None


def moves(node: ir.Node) -> bool:
    """Return whether a node's one output has just elements of its first input."""
    rule = rule_of(node)
    return rule is not None and rule.kind == "same" and rule.data == (0,) and len(node.outputs) == 1


def stored_weight(value: ir.Value) -> ir.Value | None:
    """Return the constant behind a value and its Q, DQ and moves; None for an activation."""
    for _ in range(MAX_HOPS):
        if constant(value) is not None:
            return value
        producer = value.producer()
        if producer is None or producer.op_type not in THROUGH:
            return None
        source = operand(producer, 0)
        if source is None:
            return None
        value = source
    return None


def is_redundant(clamp: ir.Node) -> bool:
    """Return whether all that reads a Relu or Clip saturates no later than it does."""
    after = quantizers(clamp.outputs[0])
    return after is not None and all(_repeats(q, clamp) for q in after)


def _repeats(quantizer: ir.Node, clamp: ir.Node) -> bool:
    """Return whether quantizing saturates no later than the clamp before it.

    Half a step beyond the clamp's bound still rounds to the same integer.
    """
    dtype = quantized_type(quantizer)
    scale, zero = array(quantizer.inputs[1]), zero_point(quantizer)
    if dtype not in DTYPES or scale is None or zero is None or not scale.size == zero.size == 1:
        return False
    step = float(scale.reshape(-1)[0])
    lowest, highest = ((q - int(zero.reshape(-1)[0])) * step for q in limits(dtype))
    low, high = clamp_bounds(clamp)
    return low - step / 2 <= lowest and highest <= high + step / 2


def clamp_bounds(clamp: ir.Node) -> tuple[float, float]:
    """Return the bounds of a Relu or Clip; NaN for one that is computed at run time."""
    if clamp.op_type == "Relu":
        return 0.0, np.inf
    bounds = [float(attribute(clamp, "min", -np.inf)), float(attribute(clamp, "max", np.inf))]
    for i, value in enumerate(clamp.inputs[1:3]):
        if value is not None:
            known = array(value)
            bounds[i] = np.nan if known is None or known.size != 1 else float(known.reshape(-1)[0])
    return bounds[0], bounds[1]


def zero_point(node: ir.Node) -> npt.NDArray[Any] | None:
    """Return the zero point of a Q or DQ node; 0 where it has none, None where it is computed."""
    value = operand(node, 2)
    return np.zeros((), np.int32) if value is None else array(value)


def same_qparams(dequantize: ir.Node, quantize: ir.Node) -> bool:
    """Return whether a DequantizeLinear and a QuantizeLinear are each other's inverse."""
    source = dequantize.inputs[0]
    if source is None or source.dtype != quantize.outputs[0].dtype:
        return False
    pairs = [
        (array(dequantize.inputs[1]), array(quantize.inputs[1])),
        (zero_point(dequantize), zero_point(quantize)),
    ]
    return all(a is not None and b is not None and np.array_equal(a, b) for a, b in pairs)


def quantized_type(quantizer: ir.Node) -> str:
    """Return the integer type that a QuantizeLinear gives."""
    dtype = quantizer.outputs[0].dtype
    return "uint8" if dtype is None else dtype_name(dtype)
