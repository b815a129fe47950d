"""The arithmetic: what every native kernel must equal bit for bit, and onnxruntime does or nearly.

Equation numbers are those of docs/quantization.md. Nothing here is fast.

Shape legend: x (N, C, *spatial), w (C_out, C / group, *kernel), or x (..., m, k), w (k, n);
integers are int32 or int64 arrays of values within the limits of their QParams.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product

import numpy as np

from qtool.qparams import QParams, dequantize, limits, quantize

__all__ = ["dequantize", "quantize"]

INT32 = np.iinfo(np.int32)
ONE = 1 << 23  # softmax: the fixed-point 1


def requantize(acc, multiplier, y: QParams, clamp: tuple[int, int] | None = None):
    """Return saturate(round_half_even(float32(acc) * multiplier) + zero_point), eq. 5.

    acc is an integer array, multiplier float32, and they broadcast. clamp narrows the limits of y:
    that is all that Relu and Clip are.
    """
    with np.errstate(over="ignore"):
        steps = np.rint(acc.astype(np.float32) * np.asarray(multiplier, np.float32))
    low, high = y.limits
    if clamp is not None:
        low, high = max(low, clamp[0]), min(high, clamp[1])
    zero = int(y.zero_point)
    # Clipped before the sum, so that it is exact in float32.
    return (np.clip(steps, low - zero, high - zero) + zero).astype(np.int32)


def accumulated(acc, x: QParams, bias_q=None):
    """Return acc + bias_q; of 8-bit activations it must fit int32, of wider ones int64, eq. 8."""
    acc = acc if bias_q is None else acc + bias_q
    narrow = acc if x.dtype in ("int8", "uint8", "int4", "uint4") else acc[:0]
    assert INT32.min <= narrow.min(initial=0) <= narrow.max(initial=0) <= INT32.max, "overflow"
    return acc


def multiplier(x: QParams, w: QParams, y: QParams):
    """Return x_scale * w_scale / y_scale, each operation rounded to float32, eq. 5."""
    return ((x.scale * w.scale).astype(np.float32) / y.scale).astype(np.float32)


def centred(q, qparams: QParams):
    """Return q - zero_point as int64, for zero_point per tensor or along qparams.axis."""
    zero = qparams.zero_point.astype(np.int64)
    if qparams.axis is not None and zero.ndim:
        zero = zero.reshape([-1 if i == qparams.axis % q.ndim else 1 for i in range(q.ndim)])
    return q.astype(np.int64) - zero


def quantize_bias(bias, x: QParams, w: QParams):
    """Return round_half_even(bias / (x_scale * w_scale)) as int32, eq. 4."""
    steps = np.rint(bias.astype(np.float64) / (x.scale * w.scale).astype(np.float64))
    assert np.abs(steps).max(initial=0) <= INT32.max, "overflow"
    return steps.astype(np.int32)


def conv(
    x_q,
    w_q,
    bias_q,
    x: QParams,
    w: QParams,
    y: QParams,
    *,
    strides: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    dilations: Sequence[int] | None = None,
    group: int = 1,
    clamp: tuple[int, int] | None = None,
):
    """Return requantize(bias_q + sum (x_q - x_zp) * (w_q - w_zp)), eq. 3 and 5.

    Padding is real 0, that is x_zp. Any number of spatial dims; attributes as in ONNX Conv.
    """
    dims = x_q.ndim - 2
    acc = conv_sum(
        centred(x_q, x),
        centred(w_q, w),
        strides or [1] * dims,
        pads or [0] * 2 * dims,
        dilations or [1] * dims,
        group,
    )
    along = (1, -1, *[1] * dims)
    acc = accumulated(acc, x, None if bias_q is None else bias_q.reshape(along))
    scale = np.broadcast_to(multiplier(x, w, y), w_q.shape[0])
    return requantize(acc, scale.reshape(along), y, clamp)


def conv_sum(x, w, strides, pads, dilations, group):
    """Return the sum over the kernel of x * w, int64 (N, C_out, *spatial)."""
    n, kernel = len(x), w.shape[2:]
    dims = len(kernel)
    x = np.pad(x, [(0, 0), (0, 0), *zip(pads[:dims], pads[dims:], strict=True)])
    out = [
        (size - d * (k - 1) - 1) // s + 1
        for size, d, k, s in zip(x.shape[2:], dilations, kernel, strides, strict=True)
    ]
    acc = np.zeros((n, group, w.shape[0] // group, *out), np.int64)
    for at in product(*map(range, kernel)):
        taps = tuple(
            slice(i * d, i * d + (o - 1) * s + 1, s)
            for i, d, o, s in zip(at, dilations, out, strides, strict=True)
        )
        patch = x[(slice(None), slice(None), *taps)].reshape(n, group, -1, *out)
        weight = w[(slice(None), slice(None), *at)].reshape(group, -1, w.shape[1])
        acc += np.einsum("ngc...,goc->ngo...", patch, weight)
    return acc.reshape(n, -1, *out)


def conv_transpose(
    x_q, w_q, bias_q, x: QParams, w: QParams, y: QParams, *, strides=None, pads=None, group=1
):
    """Return ConvTranspose, for w (C, C_out / group, *kernel) quantized per tensor: eq. 3 and 5.

    It is conv, of x spread out by strides - 1 zeros, with the kernel mirrored.
    """
    dims = x_q.ndim - 2
    strides, pads = strides or [1] * dims, pads or [0] * 2 * dims
    kernel = w_q.shape[2:]
    spread = [(size - 1) * s + 1 for size, s in zip(x_q.shape[2:], strides, strict=True)]
    wide = np.zeros((*x_q.shape[:2], *spread), np.int64)
    wide[(slice(None), slice(None), *(slice(None, None, s) for s in strides))] = centred(x_q, x)
    # (group, C / group, C_out / group, *kernel) -> (C_out, C / group, *kernel)
    grouped = centred(w_q, w).reshape(group, -1, *w_q.shape[1:]).swapaxes(1, 2)
    mirrored = np.flip(grouped.reshape(-1, *grouped.shape[2:]), tuple(range(2, 2 + dims)))
    borders = [k - 1 - p for k, p in zip((*kernel, *kernel), pads, strict=True)]
    assert min(borders) >= 0, "pads wider than the kernel"
    acc = conv_sum(wide, mirrored, [1] * dims, borders, [1] * dims, group)
    along = (1, -1, *[1] * dims)
    acc = accumulated(acc, x, None if bias_q is None else bias_q.reshape(along))
    return requantize(acc, multiplier(x, w, y), y)


def matmul(x_q, w_q, x: QParams, w: QParams, y: QParams, *, bias_q=None, clamp=None):
    """Return requantize(bias_q + (x_q - x_zp) @ (w_q - w_zp)), eq. 3 and 5.

    w is a weight, quantized per tensor or along its last axis, or another activation.
    """
    acc = accumulated(centred(x_q, x) @ centred(w_q, w), x, bias_q)
    return requantize(acc, multiplier(x, w, y), y, clamp)


def gemm(x_q, w_q, bias_q, x: QParams, w: QParams, y: QParams, *, clamp=None):
    """Return matmul of x (m, k) and w (n, k), transposed as Gemm's transB = 1 has it."""
    w_t = QParams(w.scale, w.zero_point, w.dtype, None if w.axis is None else 1, w.narrow)
    return matmul(x_q, w_q.T, x, w_t, y, bias_q=bias_q, clamp=clamp)


def add(a_q, b_q, a: QParams, b: QParams, y: QParams, *, sign: int = 1, clamp=None):
    """Return saturate(round_half_even(a' + b') + y_zp), eq. 12; sign = -1 subtracts.

    a' = float32(a_q - a_zp) * float32(a_scale / y_scale), and b' likewise; the sum is float32.
    """
    terms = [
        centred(q, p).astype(np.float32) * (p.scale / y.scale).astype(np.float32)
        for q, p in ((a_q, a), (b_q, b))
    ]
    return saturate(np.rint(terms[0] + np.float32(sign) * terms[1]), y, clamp)


def mul(a_q, b_q, a: QParams, b: QParams, y: QParams, *, clamp=None):
    """Return requantize((a_q - a_zp) * (b_q - b_zp)), eq. 13."""
    return requantize(centred(a_q, a) * centred(b_q, b), multiplier(a, b, y), y, clamp)


def saturate(steps, y: QParams, clamp: tuple[int, int] | None = None):
    """Return steps + zero_point within the limits of y and clamp."""
    return requantize(steps, np.float32(1), y, clamp)


def global_average_pool(x_q, x: QParams, y: QParams):
    """Return requantize(sum of (x_q - x_zp)) with x_scale / (y_scale * count), eq. 14."""
    return mean(x_q, x, y, axes=tuple(range(2, x_q.ndim)))


def mean(x_q, x: QParams, y: QParams, *, axes: tuple[int, ...], keepdims: bool = True):
    """Return the mean over axes, as global_average_pool: ReduceMean."""
    acc = accumulated(centred(x_q, x).sum(axis=axes, keepdims=keepdims), x)
    count = np.float32(np.prod([x_q.shape[axis] for axis in axes]))
    return requantize(acc, x.scale / (y.scale * count), y)


def average_pool(
    x_q, x: QParams, y: QParams, *, kernel, strides=None, pads=None, count_include_pad=False
):
    """Return requantize(sum of (x_q - x_zp)) with x_scale / (y_scale * count), eq. 14.

    count is the number of elements under the kernel, those of the padding only if
    count_include_pad.
    """
    dims = len(kernel)
    steps, borders = list(strides or [1] * dims), list(pads or [0] * 2 * dims)
    ones = np.ones((1, 1, *kernel), np.int64)
    flat = centred(x_q, x).reshape(-1, 1, *x_q.shape[2:])
    acc = conv_sum(flat, ones, steps, borders, [1] * dims, 1)
    count = conv_sum(np.ones_like(flat[:1]), ones, steps, borders, [1] * dims, 1)
    if count_include_pad:
        count[:] = np.prod(kernel)
    scale = x.scale / (y.scale * count.astype(np.float32))
    return requantize(acc.reshape(*x_q.shape[:2], *acc.shape[2:]), scale.reshape(acc.shape[2:]), y)


def max_pool(x_q, *, kernel, strides=None, pads=None, dilations=None):
    """Return the largest integer under the kernel; x and y share their qparams, eq. 15."""
    dims = len(kernel)
    pads = list(pads or [0] * 2 * dims)
    lowest = INT32.min  # padding never wins
    x = np.pad(
        x_q.astype(np.int32),
        [(0, 0), (0, 0), *zip(pads[:dims], pads[dims:], strict=True)],
        constant_values=lowest,
    )
    sizes = [d * (k - 1) + 1 for d, k in zip(dilations or [1] * dims, kernel, strict=True)]
    windows = np.lib.stride_tricks.sliding_window_view(x, sizes, tuple(range(2, 2 + dims)))
    outer = tuple(slice(None, None, s) for s in strides or [1] * dims)
    inner = tuple(slice(None, None, d) for d in dilations or [1] * dims)
    windows = windows[(slice(None), slice(None), *outer, *inner)]
    return windows.max(axis=tuple(range(2 + dims, 2 + 2 * dims)))


def lookup_table(function: Callable, x: QParams, y: QParams):
    """Return y_q for each x_q of x's dtype, lowest first: quantize(f(dequantize(x_q))), eq. 16.

    function maps float64 to float64 elementwise; its result is rounded to float32 once.
    """
    low, high = limits(x.dtype)
    real = dequantize(np.arange(low, high + 1), x).astype(np.float64)
    return quantize(function(real).astype(np.float32), y)


def look_up(x_q, table, x: QParams):
    """Return table[x_q], for a table of lookup_table."""
    return table[x_q.astype(np.int64) - limits(x.dtype)[0]]


def concat(inputs, y: QParams, axis: int):
    """Return the inputs, pairs of integers and qparams, requantized by table to y and joined."""
    parts = [look_up(q, lookup_table(lambda v: v, x, y), x) for q, x in inputs]
    return np.concatenate(parts, axis=axis)


def softmax(x_q, x: QParams, y: QParams, axis: int = -1):
    """Return quantize(float32(e) / float32(sum e)) with e = round(2**23 exp(real - max)), eq. 17.

    The exponentials are integers, so that their sum does not depend on its order.
    """
    behind = x_q.astype(np.int64).max(axis=axis, keepdims=True) - x_q
    e = np.rint(ONE * np.exp(-behind * x.scale.astype(np.float64))).astype(np.int64)
    total = e.sum(axis=axis, keepdims=True)
    return quantize(e.astype(np.float32) / total.astype(np.float32), y)
