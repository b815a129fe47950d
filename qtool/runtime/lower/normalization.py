"""Softmax and normalizations."""

from __future__ import annotations

import math

import onnx_ir as ir

from qtool.errors import UnsupportedError
from qtool.model import attribute
from qtool.runtime.lower.state import Lowering
from qtool.runtime.lower.values import Held


def softmax(lowering: Lowering, node: ir.Node) -> None:
    """Lower Softmax along one axis, or, before opset 13, along all from axis on."""
    x = lowering.plain(node.inputs[0])
    if x.dtype != "float32":
        raise UnsupportedError(f"its input is {x.dtype}")
    axis = attribute(node, "axis", 1 if lowering.opset < 13 else -1) % len(x.shape)
    rows = x
    if lowering.opset < 13:
        rows = x.viewed((*x.shape[:axis], math.prod(x.shape[axis:])))
    y = lowering.make("float32", x.shape)
    lowering.emit("Softmax", [rows], [y.viewed(rows.shape)], [axis])
    lowering.give(node.outputs[0], Held(y))
