"""Conv, Gemm and MatMul in float32; constant weights may stay integers in memory.

Shape legend: a convolution's operands are (N, D, H, W, C) in a Program.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from qtool.errors import UnsupportedError
from qtool.model import attribute
from qtool.runtime.lower.float_weights import FloatWeight, float_weight
from qtool.runtime.lower.layout import dense
from qtool.runtime.lower.state import Lowering
from qtool.runtime.lower.values import Dequantized, Held, Known
from qtool.runtime.lower.windows import Windows, read_windows
from qtool.runtime.program import Array, Tensor

ADD, MUL = 0, 2  # of BinaryFloat
FLOATS = (32, 1)  # bits and block of what is no constant weight


def conv(lowering: Lowering, node: ir.Node) -> None:
    """Lower a convolution of one to three spatial dims."""
    shape = lowering.shape(node.inputs[0])
    if not 3 <= len(shape) <= 5:
        raise UnsupportedError(f"it has {len(shape) - 2} spatial dims")
    x = require_float(lowering.held(node.inputs[0]))
    windows = read_windows(node, shape[2:], lowering.shape(node.inputs[1])[2:])
    group = attribute(node, "group", 1)
    weight = conv_weight(lowering, node.inputs[1], depthwise=group == shape[1])
    y = convolved(lowering, x, weight, bias_of(lowering, node, weight.n), windows, group)
    lowering.give(node.outputs[0], Held(y, channels_last=True))


def conv_weight(lowering: Lowering, value: ir.Value | None, *, depthwise: bool) -> FloatWeight:
    """Return the weight of a convolution; a depthwise one is small, so it becomes floats."""
    if depthwise:
        lowering.need(value, "weight")
    return float_weight(lowering, value, lambda w: np.moveaxis(w, 1, -1), 0)


def convolved(
    lowering: Lowering,
    x: Held,
    weight: FloatWeight,
    bias: Array | None,
    windows: Windows,
    group: int,
) -> Tensor:
    """Emit a convolution and return its result, channels last."""
    image = lowering.as_last(x)
    y = lowering.make("float32", (image.shape[0], *windows.out, weight.n))
    tensors = [image.viewed(as_volume(image.shape)), *weight.tensors]
    tensors.append(None if bias is None else lowering.constant(bias))
    ints = (*volume_ints(windows), group, *weight.ints)
    lowering.emit(
        "ConvFloat", tensors, [y.viewed(as_volume(y.shape))], ints, macs=y.size * weight.k
    )
    return y


def as_volume(shape: Sequence[int]) -> tuple[int, ...]:
    """Return a channels last shape with three spatial dims."""
    return (shape[0], *[1] * (5 - len(shape)), *shape[1:])


def volume_ints(windows: Windows) -> tuple[int, ...]:
    """Return kernel, strides, dilations and pads in the order of native/ops/patches.h."""
    n = len(windows.kernel)
    begin, end = windows.pads[:n], windows.pads[n:]
    ones = (windows.kernel, windows.strides, windows.dilations)
    filled = [(*[1] * (3 - n), *v) for v in ones] + [(*[0] * (3 - n), *v) for v in (begin, end)]
    return tuple(v for part in filled for v in part)


def bias_of(lowering: Lowering, node: ir.Node, n: int) -> Array | None:
    """Return the third input as floats, (n,).

    Raises:
        UnsupportedError: it is computed at run time.
    """
    if len(node.inputs) < 3 or node.inputs[2] is None:
        return None
    bias = lowering.need(node.inputs[2], "bias").astype(np.float32)
    return np.ascontiguousarray(np.broadcast_to(bias.reshape(-1), n))


def gemm(lowering: Lowering, node: ir.Node) -> None:
    """Lower y = alpha a b + beta c, a and b as they are or transposed."""
    a = require_plain_float(lowering, node.inputs[0])
    if attribute(node, "transA", 0):
        a = dense(lowering, lowering.transposed(a, (1, 0)))
    alpha, beta = attribute(node, "alpha", 1.0), attribute(node, "beta", 1.0)
    c = node.inputs[2] if len(node.inputs) > 2 else None
    bias = None if c is None or alpha != 1.0 or beta != 1.0 else lowering.known(c)
    n = lowering.shape(node.inputs[1])[0 if attribute(node, "transB", 0) else 1]
    fused = bias is not None and bias.size == n and bias.shape[-1] == n
    y = product(
        lowering, a, node.inputs[1], transposed=bool(attribute(node, "transB", 0)),
        bias=bias if fused else None,
    )  # fmt: skip
    y = _scaled(lowering, y, alpha)
    if c is not None and not fused:
        term = _scaled(lowering, require_plain_float(lowering, c), beta)
        total = lowering.make("float32", y.shape)
        lowering.emit("BinaryFloat", [y, term], [total], [ADD])
        y = total
    lowering.give(node.outputs[0], Held(y))


def _scaled(lowering: Lowering, x: Tensor, factor: float) -> Tensor:
    if factor == 1.0:
        return x
    y = lowering.make("float32", x.shape)
    constant = lowering.constant(np.array(factor, np.float32))
    lowering.emit("BinaryFloat", [x, constant], [y], [MUL])
    return y


def matmul(lowering: Lowering, node: ir.Node) -> None:
    """Lower a product of matrices; leading axes broadcast, operands of rank 1 are vectors."""
    a = require_plain_float(lowering, node.inputs[0])
    row = len(a.shape) == 1
    a = a.viewed((1, *a.shape)) if row else a
    y = product(lowering, a, node.inputs[1], transposed=False, bias=None)
    shape = list(y.shape)
    if row:
        del shape[-2]
    if len(lowering.shape(node.inputs[1])) == 1:
        del shape[-1]
    lowering.give(node.outputs[0], Held(y.viewed(shape)))


def product(
    lowering: Lowering, a: Tensor, value: ir.Value | None, *, transposed: bool, bias: Array | None
) -> Tensor:
    """Emit a b (+ bias) and return the result; b is a value, with its last axes swapped or not."""
    a = dense(lowering, a)
    constant = None if bias is None else lowering.constant(_vector(bias))
    found = lowering.value(value)
    shape = lowering.shape(value)
    is_weight = isinstance(found, Dequantized) and isinstance(found.q, Known) and len(shape) == 2
    if is_weight:
        axis = 0 if transposed else 1
        weight = float_weight(lowering, value, lambda w: w if transposed else w.T, axis)
        return matrix_product(lowering, a, weight, constant)
    b = dense(lowering, require_plain_float(lowering, value))
    b = b.viewed((*b.shape, 1)) if len(b.shape) == 1 else b
    n, k = (b.shape[-2], b.shape[-1]) if transposed else (b.shape[-1], b.shape[-2])
    if len(b.shape) == 2 and len(a.shape) > 2:
        made = lowering.make("float32", (*a.shape[:-1], n))
        a, y = a.viewed((a.size // k, k)), made.viewed((made.size // n, n))
    else:
        batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
        made = y = lowering.make("float32", (*batch, a.shape[-2], n))
    inputs = [a, b, None, None, constant]
    lowering.emit("MatMulFloat", inputs, [y], (int(transposed), *FLOATS), macs=made.size * k)
    return made


def matrix_product(
    lowering: Lowering, a: Tensor, weight: FloatWeight, bias: Tensor | None
) -> Tensor:
    """Emit a w^T (+ bias) for a weight (n, k) and return the result."""
    y = lowering.make("float32", (*a.shape[:-1], weight.n))
    rows, made = (t.viewed((t.size // t.columns, t.columns)) for t in (a, y))
    inputs = [rows, *weight.tensors, bias]
    lowering.emit("MatMulFloat", inputs, [made], (1, *weight.ints), macs=y.size * weight.k)
    return y


def _vector(bias: Array) -> Array:
    return np.ascontiguousarray(bias.reshape(-1), np.float32)


def require_plain_float(lowering: Lowering, value: ir.Value | None) -> Tensor:
    """Return a float32 tensor with its axes in ONNX's order, where the caller cannot change it."""
    held = require_float(lowering.held(value))
    return lowering.as_plain(held)


def require_float(held: Held) -> Held:
    """Return a value that must be float32.

    Raises:
        UnsupportedError: it is not.
    """
    if held.dtype != "float32":
        raise UnsupportedError(f"its operand is {held.dtype}")
    return held
