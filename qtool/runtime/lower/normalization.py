"""Softmax and normalizations."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from qtool.errors import UnsupportedError
from qtool.model import attribute
from qtool.runtime.lower.layout import dense
from qtool.runtime.lower.outputs import output_of
from qtool.runtime.lower.state import Lowering
from qtool.runtime.lower.values import Held
from qtool.runtime.program import Tensor

ONE = 1 << 23  # the fixed-point 1 of eq. 17


def softmax(lowering: Lowering, node: ir.Node) -> None:
    """Lower Softmax along one axis, or, before opset 13, along all from axis on."""
    rank = len(lowering.shape(node.inputs[0]))
    axis = attribute(node, "axis", 1 if lowering.opset < 13 else -1) % rank
    quantized, output = lowering.quantized(node.inputs[0]), output_of(lowering, node.outputs[0])
    if quantized is not None and output is not None and node.op_type == "Softmax":
        x = dense(lowering, lowering.as_plain(Held(quantized.tensor, quantized.channels_last)))
        y = lowering.make("uint8", x.shape)
        behind = np.arange(256) * np.float64(quantized.scale)
        table = np.rint(ONE * np.exp(-behind)).astype(np.int32)
        rows = _rows(lowering, x, axis)
        ints = (axis, output.zero_point, output.low, output.high)
        inputs = [rows, lowering.constant(table)]
        lowering.emit("SoftmaxInt8", inputs, [y.viewed(rows.shape)], ints, [float(output.scale)])
        output.give(lowering, y, channels_last=False)
        return
    x = dense(lowering, lowering.plain(node.inputs[0]))
    if x.dtype != "float32":
        raise UnsupportedError(f"its input is {x.dtype}")
    y = lowering.make("float32", x.shape)
    rows = _rows(lowering, x, axis)
    lowering.emit("Softmax", [rows], [y.viewed(rows.shape)], [axis])
    if node.op_type == "LogSoftmax":
        logarithm = lowering.make("float32", x.shape)
        lowering.emit("UnaryFloat", [y], [logarithm], [5], [0.0, 0.0])
        y = logarithm
    lowering.give(node.outputs[0], Held(y))


def _rows(lowering: Lowering, x: Tensor, axis: int) -> Tensor:
    if lowering.opset >= 13:
        return x
    return x.viewed((*x.shape[:axis], math.prod(x.shape[axis:])))


def layer_normalization(lowering: Lowering, node: ir.Node) -> None:
    """Lower LayerNormalization over the last axes."""
    if any(v.name and v.uses() for v in node.outputs[1:]):
        raise UnsupportedError("its mean or deviation is read")
    x = dense(lowering, lowering.plain(node.inputs[0]))
    axis = attribute(node, "axis", -1) % len(x.shape)
    n = math.prod(x.shape[axis:])
    scale, bias = (_vector(lowering, node, i, x.shape[axis:]) for i in (1, 2))
    y = lowering.make("float32", x.shape)
    epsilon = attribute(node, "epsilon", 1e-5)
    lowering.emit("Normalize", [x, scale, bias], [y], [n, 1], [epsilon])
    lowering.give(node.outputs[0], Held(y))


def _vector(lowering: Lowering, node: ir.Node, i: int, shape: tuple[int, ...]) -> Tensor | None:
    value = node.inputs[i] if i < len(node.inputs) else None
    if value is None:
        return None
    known = lowering.need(value, "scale or bias")
    return lowering.constant(np.ascontiguousarray(np.broadcast_to(known, shape), np.float32))


def instance_normalization(lowering: Lowering, node: ir.Node) -> None:
    """Lower InstanceNormalization: each channel of each image by itself."""
    x = dense(lowering, lowering.plain(node.inputs[0]))
    scale, bias = lowering.plain(node.inputs[1]), lowering.plain(node.inputs[2])
    y = lowering.make("float32", x.shape)
    epsilon = attribute(node, "epsilon", 1e-5)
    lowering.emit("Normalize", [x, scale, bias], [y], [math.prod(x.shape[2:]), 0], [epsilon])
    lowering.give(node.outputs[0], Held(y))
