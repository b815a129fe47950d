"""Elementwise ops on other types than float32, comparisons, Where and Cast."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from qtool.errors import UnsupportedError
from qtool.model import attribute, dtype_name
from qtool.runtime.lower.layout import aligned
from qtool.runtime.lower.state import Lowering
from qtool.runtime.lower.values import Held, Known, channels_last

# The numbers of native/ops/typed_elementwise.cpp.
NUMBERS = {
    "Add": 0, "Sub": 1, "Mul": 2, "Div": 3, "Min": 4, "Max": 5, "Mod": 6, "Equal": 7, "Less": 8,
    "LessOrEqual": 9, "Greater": 10, "GreaterOrEqual": 11, "And": 12, "Or": 13, "Xor": 14,
    "Fmod": 15, "Pow": 16,
}  # fmt: skip
COMPARISONS = ("Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "And", "Or", "Xor")


def binary(lowering: Lowering, node: ir.Node) -> None:
    """Lower a comparison, a logical function, or Mod."""
    op = "Fmod" if attribute(node, "fmod", 0) else node.op_type
    operands = [lowering.held(v) for v in node.inputs]
    lowering.give(node.outputs[0], binary_of(lowering, op, operands))


def binary_of(lowering: Lowering, op: str, operands: Sequence[Held]) -> Held:
    """Return a function of two operands of one type."""
    dtype = operands[0].dtype
    if op not in NUMBERS:
        raise UnsupportedError(f"it has no form for {dtype}")
    if any(x.dtype != dtype for x in operands):
        raise UnsupportedError("its operands differ in type")
    shape = np.broadcast_shapes(*(x.shape for x in operands))
    tensors, last = aligned(lowering, operands, shape)
    made = "bool" if op in COMPARISONS else dtype
    y = lowering.make(made, channels_last(shape) if last else shape)
    lowering.emit("Binary", tensors, [y], [NUMBERS[op]])
    return Held(y, last)


def unary(lowering: Lowering, node: ir.Node) -> None:
    """Lower Neg, Abs, Sign, Relu, Clip and Not of integers: each is made of functions of two."""
    x = lowering.held(node.inputs[0])

    def constant(value: Any) -> Held:
        return Held(lowering.constant(np.array(value, x.dtype)))

    def both(op: str, a: Held, b: Held) -> Held:
        return binary_of(lowering, op, [a, b])

    if node.op_type == "Not":
        made = both("Equal", x, constant(False))
    elif node.op_type == "Relu":
        made = both("Max", x, constant(0))
    elif node.op_type == "Neg":
        made = both("Sub", constant(0), x)
    elif node.op_type == "Abs":
        made = both("Max", x, both("Sub", constant(0), x))
    elif node.op_type == "Sign":
        made = both("Min", both("Max", x, constant(-1)), constant(1))
    elif node.op_type == "Clip":
        made = x
        for op, value in zip(("Max", "Min"), node.inputs[1:3], strict=False):
            made = made if value is None else both(op, made, lowering.held(value))
    else:
        raise UnsupportedError(f"it has no form for {x.dtype}")
    lowering.give(node.outputs[0], made)


def power(lowering: Lowering, node: ir.Node) -> None:
    """Lower Pow of operands that are not both float32: it is computed in the wider of the types."""
    a, b = (lowering.held(v) for v in node.inputs)
    result = a.dtype
    wide = result if b.dtype == result else str(np.result_type(result, b.dtype))
    wide = "float32" if wide == "float64" and "float64" not in (a.dtype, b.dtype) else wide
    made = binary_of(lowering, "Pow", [cast_to(lowering, x, wide) for x in (a, b)])
    lowering.give(node.outputs[0], cast_to(lowering, made, result))


def is_special(lowering: Lowering, node: ir.Node) -> None:
    """Lower IsNaN and IsInf, by comparisons."""
    x = lowering.held(node.inputs[0])
    if node.op_type == "IsNaN":
        equal = binary_of(lowering, "Equal", [x, x])
        never = Held(lowering.constant(np.array(False)))
        made = binary_of(lowering, "Equal", [equal, never])
    else:
        ends = [
            binary_of(lowering, "Equal", [x, Held(lowering.constant(np.array(end, x.dtype)))])
            for end, name in ((-np.inf, "detect_negative"), (np.inf, "detect_positive"))
            if attribute(node, name, 1)
        ]
        if not ends:
            raise UnsupportedError("it detects nothing")
        made = ends[0] if len(ends) == 1 else binary_of(lowering, "Or", ends)
    lowering.give(node.outputs[0], made)


def where(lowering: Lowering, node: ir.Node) -> None:
    """Lower Where."""
    operands = [lowering.held(v) for v in node.inputs]
    shape = np.broadcast_shapes(*(x.shape for x in operands))
    tensors, last = aligned(lowering, operands, shape)
    y = lowering.make(operands[1].dtype, channels_last(shape) if last else shape)
    lowering.emit("Where", tensors, [y])
    lowering.give(node.outputs[0], Held(y, last))


def cast(lowering: Lowering, node: ir.Node) -> None:
    """Lower Cast."""
    to = dtype_name(ir.DataType(attribute(node, "to")))
    found = lowering.value(node.inputs[0])
    if lowering.dtype(node.inputs[0]) == to:
        lowering.give(node.outputs[0], found)
        return
    assert not isinstance(found, Known)
    lowering.give(node.outputs[0], cast_to(lowering, lowering.held(node.inputs[0]), to))


def cast_to(lowering: Lowering, x: Held, to: str) -> Held:
    """Return a value with another element type."""
    if x.dtype == to:
        return x
    y = lowering.make(to, x.tensor.shape)
    lowering.emit("Cast", [x.tensor], [y])
    return Held(y, x.channels_last)
