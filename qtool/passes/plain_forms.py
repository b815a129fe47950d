"""Operators said in the form that later stages know: Gemm without factors, Sum as Add."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from qtool.model import attribute, constant
from qtool.passes.linear import BIAS, FLOATS, WEIGHT
from qtool.passes.rewriting import Array, Editor, owned, rewrites
from qtool.passes.tensors import derived, dims


@rewrites("Gemm")
def plain_gemm(node: ir.Node, editor: Editor) -> bool:
    """Replace alpha * A B + beta * C by A (alpha B) + (beta C), for constant B and C."""
    changed = False
    for name, index in (("alpha", WEIGHT), ("beta", BIAS)):
        factor = float(attribute(node, name, 1.0))
        value = node.inputs[index] if index < len(node.inputs) else None
        if factor == 1.0:
            continue
        if value is not None and not _scale(node, index, factor, editor):
            continue
        node.attributes.pop(name)
        changed = True
    return changed


@rewrites("Sum")
def plain_sum(node: ir.Node, editor: Editor) -> bool:
    """Replace Sum(a, b, c) by Add(Add(a, b), c)."""
    total, *rest = node.inputs
    made: list[ir.Node] = []
    for value in rest:
        made.append(ir.node("Add", [total, value]))
        total = made[-1].outputs[0]
    if not made:
        return False
    for number, add in enumerate(made[:-1], 1):
        add.name = add.outputs[0].name = editor.name(f"{node.outputs[0].name}_of_{number + 1}")
        add.outputs[0].type = node.outputs[0].type
    made[-1].name = node.name
    editor.replace(node, *made)
    return True


def _scale(node: ir.Node, index: int, factor: float, editor: Editor) -> bool:
    value = node.inputs[index]
    tensor = constant(value)
    if value is None or tensor is None or tensor.dtype not in FLOATS or not owned(value):
        return False

    def compute(values: Array) -> Array:
        return values.astype(np.float64) * factor

    scaled = derived(compute, tensor, dtype=tensor.dtype, shape=dims(tensor))
    editor.set_constant(node, index, f"{value.name}_scaled", scaled)
    return True
