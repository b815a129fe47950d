"""Activations that exporters wrote out in simpler ops, as the one op that they are."""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Iterator
from functools import wraps

import onnx_ir as ir

from qtool.errors import UnsupportedError
from qtool.model import Model, all_nodes, array, attribute, constant
from qtool.passes.opset import raise_opset
from qtool.passes.rewriting import Editor, Pass, produced, rewrites

log = logging.getLogger("qtool")


def needing(version: int, marks: Collection[str], fuse: Pass) -> Pass:
    """Return the pass, which makes an op of that opset: it raises the model's if it matches.

    Only a graph that has one of the op types in marks can match.
    """

    @wraps(fuse)
    def run(model: Model) -> Model:
        if not any(node.op_type in marks for node in all_nodes(model)):
            return model
        trial = model.copy()
        if fuse(trial) is trial:
            return model
        try:
            return fuse(raise_opset(model, version))
        except UnsupportedError as error:
            log.debug("%s: left out, for %s", fuse.__name__, error)
            return model

    return run


def number(value: ir.Value | None) -> float | None:
    """Return the one number that a constant holds, of any shape that widens nothing; or None."""
    tensor = constant(value)
    if tensor is None or tensor.size != 1 or len(tensor.shape) > 1:
        return None
    if not tensor.dtype.is_floating_point():
        return None
    values = array(value)
    return None if values is None else float(values.ravel()[0])


def is_number(value: ir.Value | None, wanted: float) -> bool:
    """Tell whether value is the constant wanted, to the precision of float16 where it is one."""
    found = number(value)
    tensor = constant(value)
    if found is None or tensor is None:
        return False
    tolerance = 1e-6 if tensor.dtype == ir.DataType.FLOAT else 1e-3
    return math.isclose(found, wanted, rel_tol=tolerance)


def operands(node: ir.Node) -> Iterator[tuple[ir.Value | None, ir.Value | None]]:
    """Yield the two inputs of a commutative node in both orders."""
    a, b = node.inputs
    yield a, b
    yield b, a


def _plus_three_clipped(value: ir.Value | None) -> ir.Value | None:
    """Return x of Clip(x + 3, 0, 6)."""
    clip = produced(value, "Clip")
    if clip is None or len(clip.inputs) != 3 or number(clip.inputs[1]) != 0:
        return None
    add = produced(clip.inputs[0], "Add")
    if add is None or number(clip.inputs[2]) != 6:
        return None
    return next((x for x, three in operands(add) if number(three) == 3), None)


def _sixth_of(node: ir.Node) -> ir.Value | None:
    """Return x of x / 6 or x * (1 / 6)."""
    if node.op_type == "Div":
        return node.inputs[0] if number(node.inputs[1]) == 6 else None
    return next((x for x, sixth in operands(node) if is_number(sixth, 1 / 6)), None)


@rewrites("Div", "Mul")
def fuse_hardsigmoid(node: ir.Node, editor: Editor) -> bool:
    """Make Clip(x + 3, 0, 6) / 6 a HardSigmoid, and move the 6 of x * Clip(x + 3, 0, 6) / 6 in."""
    whole = _sixth_of(node)
    x = _plus_three_clipped(whole)
    if x is not None:
        new = ir.node("HardSigmoid", [x], {"alpha": 1 / 6, "beta": 0.5}, name=node.name)
        editor.replace(node, new)
        return True
    product = produced(whole, "Mul")
    for factor, clipped in operands(product) if product is not None else ():
        x = _plus_three_clipped(clipped)
        if x is not None and x is factor:
            gate = ir.node("HardSigmoid", [x], {"alpha": 1 / 6, "beta": 0.5})
            gate.name = gate.outputs[0].name = editor.name(f"{node.outputs[0].name}_gate")
            gate.outputs[0].type = node.outputs[0].type
            gate.outputs[0].shape = node.outputs[0].shape
            editor.replace(node, gate, ir.node("Mul", [x, gate.outputs[0]], name=node.name))
            return True
    return False


@rewrites("Mul")
def _hardswish(node: ir.Node, editor: Editor) -> bool:
    """Make x * HardSigmoid(x, 1/6, 1/2) a HardSwish (opset 14)."""
    for x, gate in operands(node):
        made = produced(gate, "HardSigmoid")
        if made is None or x is None or made.inputs[0] is not x:
            continue
        alpha, beta = attribute(made, "alpha", 0.2), attribute(made, "beta", 0.5)
        if math.isclose(alpha, 1 / 6, rel_tol=1e-6) and beta == 0.5:
            editor.replace(node, ir.node("HardSwish", [x], name=node.name))
            return True
    return False


@rewrites("Mul")
def _gelu(node: ir.Node, editor: Editor) -> bool:
    """Make 0.5 * x * (1 + erf(x / sqrt(2))), multiplied in any order, a Gelu (opset 20).

    With tanh(sqrt(2 / pi) * (x + 0.044715 * x^3)) in the place of erf it is the approximate one.
    """
    factors = list(_factors(node))
    halves = [value for value in factors if is_number(value, 0.5)]
    rest = [value for value in factors if value not in halves]
    if len(halves) != 1 or len(rest) != 2:
        return False
    for x, gate in (rest, rest[::-1]):
        for wave, approximate in ((_erf_input, "none"), (_tanh_input, "tanh")):
            if x is not None and wave(gate) is x:
                new = ir.node("Gelu", [x], {"approximate": approximate}, name=node.name)
                editor.replace(node, new)
                return True
    return False


def _factors(node: ir.Node) -> Iterator[ir.Value | None]:
    """Yield the factors of a product of three: those of the node and of one Mul before it."""
    before = [value for value in node.inputs if produced(value, "Mul") is not None]
    inner = produced(before[0], "Mul") if len(before) == 1 else None
    for value in node.inputs:
        if inner is not None and value is before[0]:
            yield from inner.inputs
        else:
            yield value


def _erf_input(value: ir.Value | None) -> ir.Value | None:
    """Return x of 1 + erf(x / sqrt(2))."""
    add = produced(value, "Add")
    for wave, one in operands(add) if add is not None else ():
        erf = produced(wave, "Erf") if is_number(one, 1.0) else None
        scaled = produced(erf.inputs[0], "Div", "Mul") if erf is not None else None
        if scaled is None:
            continue
        if scaled.op_type == "Div":
            return scaled.inputs[0] if is_number(scaled.inputs[1], math.sqrt(2)) else None
        return next((x for x, k in operands(scaled) if is_number(k, math.sqrt(0.5))), None)
    return None


def _tanh_input(value: ir.Value | None) -> ir.Value | None:
    """Return x of 1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x^3))."""
    for tanh, one in _operands_of(value, "Add"):
        wave = produced(tanh, "Tanh") if is_number(one, 1.0) else None
        for inner, k in _operands_of(wave.inputs[0], "Mul") if wave is not None else ():
            if is_number(k, math.sqrt(2 / math.pi)):
                for x, cubic in _operands_of(inner, "Add"):
                    if x is not None and _scaled_cube(cubic) is x:
                        return x
    return None


def _scaled_cube(value: ir.Value | None) -> ir.Value | None:
    """Return x of 0.044715 * x^3."""
    for cube, k in _operands_of(value, "Mul"):
        power = produced(cube, "Pow")
        if is_number(k, 0.044715) and power is not None and number(power.inputs[1]) == 3:
            return power.inputs[0]
    return None


def _operands_of(
    value: ir.Value | None, op_type: str
) -> Iterator[tuple[ir.Value | None, ir.Value | None]]:
    """Yield the operands, in both orders, of the node of this type that computes value."""
    node = produced(value, op_type)
    if node is not None:
        yield from operands(node)


fuse_hardswish = needing(14, {"HardSigmoid"}, _hardswish)
fuse_gelu = needing(20, {"Erf", "Tanh"}, _gelu)
