"""Reductions: ReduceMean and its kin, ArgMax and ArgMin."""

from __future__ import annotations

import onnx_ir as ir

from qtool.errors import UnsupportedError
from qtool.model import attribute
from qtool.runtime.lower.layout import as_onnx, lines
from qtool.runtime.lower.outputs import output_of
from qtool.runtime.lower.state import Lowering
from qtool.runtime.lower.values import Dequantized, Held
from qtool.runtime.program import Tensor

# The numbers of native/ops/reduce.cpp.
REDUCTIONS = {
    "ReduceSum": 0, "ReduceMean": 1, "ReduceMax": 2, "ReduceMin": 3, "ReduceProd": 4,
    "ReduceSumSquare": 5, "ReduceL1": 6, "ReduceL2": 7,
}  # fmt: skip

ADD, SUB = 0, 1  # of BinaryFloat
EXP, LOG = 4, 5  # of UnaryFloat
MOST_TAPS = 1 << 20  # of a pool's window


def reduce(lowering: Lowering, node: ir.Node) -> None:
    """Lower a reduction over some axes."""
    shape = lowering.shape(node.inputs[0])
    axes = _axes(lowering, node, len(shape))
    if not axes:
        lowering.give(node.outputs[0], lowering.value(node.inputs[0]))
        return
    if node.op_type == "ReduceMean" and _mean(lowering, node, axes):
        return
    if node.op_type == "ReduceMax" and _largest(lowering, node, axes):
        return
    held = lowering.held(node.inputs[0])
    x, (outer, n, inner), left = lines(lowering, held, axes)
    y = lowering.make(held.dtype, _left_shape(held, left))
    lowering.emit("Reduce", [x], [y], [REDUCTIONS[node.op_type], outer, n, inner])
    lowering.give(node.outputs[0], Held(_shaped(lowering, node, y, left, shape, axes)))


def log_sum(lowering: Lowering, node: ir.Node) -> None:
    """Lower ReduceLogSum, and ReduceLogSumExp as log(sum exp(x - max)) + max."""
    shape = lowering.shape(node.inputs[0])
    axes = _axes(lowering, node, len(shape))
    held = lowering.held(node.inputs[0])
    if not axes or held.dtype != "float32":
        raise UnsupportedError(f"it has no axes, or reduces {held.dtype}")
    x, (outer, n, inner), left = lines(lowering, held, axes)
    cube = x.viewed((outer, n, inner))
    largest = lowering.make("float32", (outer, 1, inner))
    stable = node.op_type == "ReduceLogSumExp"
    if stable:
        lowering.emit("Reduce", [cube], [largest], [REDUCTIONS["ReduceMax"], outer, n, inner])
        behind = lowering.make("float32", cube.shape)
        lowering.emit("BinaryFloat", [cube, largest], [behind], [SUB])
        cube = lowering.make("float32", cube.shape)
        lowering.emit("UnaryFloat", [behind], [cube], [EXP], (0.0, 0.0))
    total, y = (lowering.make("float32", (outer, 1, inner)) for _ in range(2))
    lowering.emit("Reduce", [cube], [total], [REDUCTIONS["ReduceSum"], outer, n, inner])
    lowering.emit("UnaryFloat", [total], [y], [LOG], (0.0, 0.0))
    if stable:
        logarithm, y = y, lowering.make("float32", (outer, 1, inner))
        lowering.emit("BinaryFloat", [logarithm, largest], [y], [ADD])
    made = _shaped(lowering, node, y.viewed(_left_shape(held, left)), left, shape, axes)
    lowering.give(node.outputs[0], Held(made))


def arg_extreme(lowering: Lowering, node: ir.Node) -> None:
    """Lower ArgMax and ArgMin; of integers with one scale they are those of the reals."""
    shape = lowering.shape(node.inputs[0])
    axis = attribute(node, "axis", 0) % len(shape)
    found = lowering.value(node.inputs[0])
    quantized = lowering.quantized(node.inputs[0])
    if quantized is not None and isinstance(found, Dequantized):
        held = Held(quantized.tensor, quantized.channels_last)
    else:
        held = lowering.held(node.inputs[0])
    x, cut, left = lines(lowering, held, [axis])
    y = lowering.make("int64", _left_shape(held, left))
    ints = (int(node.op_type == "ArgMin"), attribute(node, "select_last_index", 0), *cut)
    lowering.emit("ArgExtreme", [x], [y], ints)
    lowering.give(node.outputs[0], Held(_shaped(lowering, node, y, left, shape, [axis])))


def _left_shape(held: Held, left: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(held.shape[axis] for axis in left)


def _shaped(
    lowering: Lowering,
    node: ir.Node,
    y: Tensor,
    left: tuple[int, ...],
    shape: tuple[int, ...],
    axes: list[int],
) -> Tensor:
    """Return the result in ONNX's order, with the axes that were reduced as 1 or without."""
    y = as_onnx(lowering, y, left)
    if not attribute(node, "keepdims", 1):
        return y
    return y.viewed([1 if axis in axes else n for axis, n in enumerate(shape)])


def _axes(lowering: Lowering, node: ir.Node, rank: int) -> list[int]:
    axes = attribute(node, "axes")
    if len(node.inputs) > 1 and node.inputs[1] is not None:
        axes = [int(a) for a in lowering.need(node.inputs[1], "axes").reshape(-1)]
    if not axes:
        return [] if attribute(node, "noop_with_empty_axes", 0) else list(range(rank))
    return sorted({axis % rank for axis in axes})


def _mean(lowering: Lowering, node: ir.Node, axes: list[int]) -> bool:
    """Lower the mean of integers as an average pool with one window, eq. 14."""
    x = lowering.quantized(node.inputs[0])
    if x is None:
        return False
    output = output_of(lowering, node.outputs[0])
    shape = lowering.shape(node.inputs[0])
    held = Held(x.tensor, x.channels_last)
    tensor, (outer, n, inner), left = lines(lowering, held, axes)
    if n > MOST_TAPS:
        return False
    y = lowering.make("float32" if output is None else "uint8", _left_shape(held, left))
    quantization = (0, 0, 255) if output is None else (output.zero_point, output.low, output.high)
    ints = (n, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, x.zero_point, *quantization)
    floats = (float(x.scale), 1.0 if output is None else float(output.scale))
    image, pooled = tensor.viewed((outer, n, 1, inner)), y.viewed((outer, 1, 1, inner))
    lowering.emit("AveragePool", [image], [pooled], ints, floats)
    made = _shaped(lowering, node, y, left, shape, axes)
    if output is None:
        lowering.give(node.outputs[0], Held(made))
    else:
        output.give(lowering, made, channels_last=False)
    return True


def _largest(lowering: Lowering, node: ir.Node, axes: list[int]) -> bool:
    """Lower the maximum of integers as a pool with one window; the qparams stay."""
    found, x = lowering.value(node.inputs[0]), lowering.quantized(node.inputs[0])
    if x is None or not isinstance(found, Dequantized):
        return False
    shape = lowering.shape(node.inputs[0])
    held = Held(x.tensor, x.channels_last)
    tensor, (outer, n, inner), left = lines(lowering, held, axes)
    if n > MOST_TAPS:
        return False
    y = lowering.make("uint8", _left_shape(held, left))
    image, pooled = tensor.viewed((outer, n, 1, inner)), y.viewed((outer, 1, 1, inner))
    lowering.emit("MaxPool", [image], [pooled], (n, 1, 1, 1, 1, 1, 0, 0, 0, 0))
    made = _shaped(lowering, node, y, left, shape, axes)
    shifted = found.qparams.dtype == "int8"
    lowering.give(node.outputs[0], Dequantized(Held(made, shifted=shifted), found.qparams))
    return True
