"""Softmax and normalizations."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from qtool.errors import UnsupportedError
from qtool.model import attribute
from qtool.runtime.lower.layout import aligned, dense
from qtool.runtime.lower.outputs import output_of
from qtool.runtime.lower.state import Lowering
from qtool.runtime.lower.values import Held, channels_last
from qtool.runtime.program import Array, Tensor

ADD, MUL = 0, 2  # of BinaryFloat
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
    if any(v.name and (v.uses() or v.is_graph_output()) for v in node.outputs[1:]):
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


def group_normalization(lowering: Lowering, node: ir.Node) -> None:
    """Lower GroupNormalization: rows of a group by themselves, then scale and bias of channels."""
    x = dense(lowering, lowering.plain(node.inputs[0]))
    groups = attribute(node, "num_groups")
    rows = x.shape[0] * groups
    one = lowering.constant(np.ones(1, np.float32))
    y = lowering.make("float32", x.shape)
    epsilon = attribute(node, "epsilon", 1e-5)
    lowering.emit("Normalize", [x, one, None], [y], [x.size // rows, 0], [epsilon])
    n, channels = len(x.shape), x.shape[1]
    vectors = [lowering.need(v, "scale or bias") for v in node.inputs[1:3]]
    if vectors[0].size == groups:  # before opset 21
        vectors = [np.repeat(v, channels // groups) for v in vectors]
    _affine(lowering, node, Held(y), *(v.reshape(-1, *[1] * (n - 2)) for v in vectors))


def batch_normalization(lowering: Lowering, node: ir.Node) -> None:
    """Lower BatchNormalization as it is at inference: a factor and a term for each channel."""
    if attribute(node, "training_mode", 0) or any(
        v.name and (v.uses() or v.is_graph_output()) for v in node.outputs[1:]
    ):
        raise UnsupportedError("it is in training mode")
    held = lowering.held(node.inputs[0])
    scale, bias, mean, variance = (
        lowering.need(v, "parameters").astype(np.float64) for v in node.inputs[1:5]
    )
    factor = scale / np.sqrt(variance + attribute(node, "epsilon", 1e-5))
    along = (-1, *[1] * (len(held.shape) - 2))
    term = bias - mean * factor
    _affine(lowering, node, held, factor.reshape(along), term.reshape(along))


def _affine(lowering: Lowering, node: ir.Node, x: Held, factor: Array, term: Array) -> None:
    """Give the node's output x * factor + term, for float32 x."""
    if x.dtype != "float32":
        raise UnsupportedError(f"its input is {x.dtype}")
    for number, values in ((MUL, factor), (ADD, term)):
        constant = Held(lowering.constant(np.ascontiguousarray(values, np.float32)))
        tensors, last = aligned(lowering, [x, constant], x.shape)
        y = lowering.make("float32", channels_last(x.shape) if last else x.shape)
        lowering.emit("BinaryFloat", tensors, [y], [number])
        x = Held(y, last)
    lowering.give(node.outputs[0], x)
