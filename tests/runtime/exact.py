"""Random integer graphs with what the reference makes of them, by op: what runs must equal.

Zero points are often at an end, channels at the edges of tiles, accumulators near those of int32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import reference
from hypothesis import strategies as st
from runtime.graphs import Graph, activations, integers, weight

from qtool.qparams import QParams

CHANNELS = st.one_of(
    st.sampled_from([1, 3, 15, 16, 17, 31, 32, 33, 47, 48, 49, 63, 64, 65, 100]), st.integers(1, 40)
)
BATCH = st.sampled_from([1, 1, 2, 3, 8])
INT32_MAX = 2**31 - 1


@dataclass
class Case:
    """A graph with its feeds, and its outputs."""

    graph: Graph
    expected: list[np.ndarray]


def case(make: Callable[..., tuple[Graph, str, QParams | None, np.ndarray]]):
    """Return a strategy of Cases: make(draw, rng) gives the graph, its result and what it equals.

    The result is a real tensor, which is quantized by the qparams; or a float output without.
    """

    @st.composite
    def drawn(draw) -> Case:
        rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
        graph, y, qparams, expected = make(draw, rng)
        if qparams is None:
            graph.output(y, str(expected.dtype), expected.ndim)
        else:
            graph.output(graph.quantize(y, qparams), qparams.dtype, expected.ndim)
            expected = expected.astype(qparams.dtype)
        return Case(graph, [expected])

    return drawn()


def windows(draw, dims: int, *, most_kernel: int = 5) -> tuple[list[int], list[int], dict]:
    """Draw the size of an image, a kernel that fits it, and the attributes."""
    kernel = [draw(st.integers(1, most_kernel)) for _ in range(dims)]
    strides = [draw(st.integers(1, 3)) for _ in range(dims)]
    dilations = [draw(st.sampled_from([1, 1, 1, 2])) for _ in range(dims)]
    pads = [draw(st.integers(0, 3)) for _ in range(2 * dims)]
    size = [
        max(d * (k - 1) + 1 - pads[i] - pads[i + dims], 0) + draw(st.integers(1, 9))
        for i, (d, k) in enumerate(zip(dilations, kernel, strict=True))
    ]
    return size, kernel, {"strides": strides, "pads": pads, "dilations": dilations}


def fitting(rng, acc: np.ndarray, x: QParams, w: QParams, y: QParams) -> QParams:
    """Return y with a scale such that most of acc, (C_out first), lies in its range."""
    real = np.abs(acc.reshape(len(acc), -1) * np.broadcast_to(w.scale, len(acc))[:, None])
    top = float(np.quantile(real, 0.98)) * float(x.scale) or 1.0
    return QParams(np.float32(top / 128 * rng.uniform(0.5, 2)), y.zero_point, y.dtype)


def biases(draw, rng, acc: np.ndarray) -> np.ndarray | None:
    """Draw int32 biases of sums (C_out first): none, small, or as near the limits as they fit."""
    kind = draw(st.sampled_from(["none", "small", "small", "limits"]))
    if kind == "none":
        return None
    if kind == "small":
        return rng.integers(-20000, 20001, len(acc)).astype(np.int32)
    flat = acc.reshape(len(acc), -1)
    top, bottom = INT32_MAX - flat.max(1), -INT32_MAX - flat.min(1)
    return np.where(rng.random(len(acc)) < 0.5, top, bottom).clip(-INT32_MAX, INT32_MAX).astype(
        np.int32
    )  # fmt: skip


def fixed_bias(graph: Graph, bias: np.ndarray, x: QParams, w: QParams) -> str:
    scale = np.broadcast_to(x.scale * w.scale, len(bias)).astype(np.float32)
    return graph.fixed(bias, QParams(scale, np.zeros(len(bias), np.int32), "int32", 0))


def weights(draw, rng, shape, axis: int) -> tuple[np.ndarray, QParams]:
    """Draw int8 weights, sometimes only the largest ones; per channel or per tensor."""
    w, w_p = weight(rng, shape, axis if draw(st.booleans()) else None)
    if draw(st.sampled_from([False, False, True])):
        w = np.where(rng.random(shape) < 0.5, 127, -127).astype(np.int8)
    return w, w_p


def convolution(draw, rng, dims: int, group: str):
    n, size_kernel = draw(BATCH), windows(draw, dims)
    size, kernel, attributes = size_kernel
    if group == "depthwise":
        groups = c_in = c_out = draw(CHANNELS)
    else:
        groups = 1 if group == "dense" else draw(st.integers(2, 4))
        c_in = groups * draw(st.integers(1, 9) if groups > 1 else CHANNELS)
        c_out = groups * draw(CHANNELS)
    x_p, y_p = draw(activations()), draw(activations())
    x = integers(rng, (n, c_in, *size), x_p)
    w, w_p = weights(draw, rng, (c_out, c_in // groups, *kernel), 0)
    acc = reference.conv_sum(
        reference.centred(x, x_p), w.astype(np.int64), attributes["strides"], attributes["pads"],
        attributes["dilations"], groups,
    )  # fmt: skip
    bias = biases(draw, rng, acc.swapaxes(0, 1))
    y_p = fitting(rng, acc.swapaxes(0, 1), x_p, w_p, y_p)
    graph = Graph()
    inputs = [graph.real(x, x_p), graph.fixed(w, w_p)]
    inputs += [] if bias is None else [fixed_bias(graph, bias, x_p, w_p)]
    y = graph.node("Conv", *inputs, **attributes, group=groups)
    relu = draw(st.booleans())
    clamp = (int(y_p.zero_point), y_p.limits[1]) if relu else None
    expected = reference.conv(x, w, bias, x_p, w_p, y_p, **attributes, group=groups, clamp=clamp)
    return graph, graph.node("Relu", y) if relu else y, y_p, expected


def conv(draw, rng):
    return convolution(draw, rng, draw(st.sampled_from([1, 2, 2])), "dense")


def grouped_conv(draw, rng):
    return convolution(draw, rng, 2, "grouped")


def depthwise_conv(draw, rng):
    return convolution(draw, rng, draw(st.sampled_from([1, 2, 2])), "depthwise")


def conv_and_residual(draw, rng):
    """A convolution and what is added to it, which kernels do in one pass."""
    graph, conv, c_p, c = convolution(draw, rng, 2, "dense")
    r_p, y_p = draw(activations()), draw(activations())
    y_p = QParams(c_p.scale * np.float32(1.3), y_p.zero_point, y_p.dtype)
    r = integers(rng, c.shape, r_p)
    conv = graph.dequantize(graph.quantize(conv, c_p), c_p)
    y = graph.node("Add", conv, graph.real(r, r_p))
    return graph, y, y_p, reference.add(c, r, c_p, r_p, y_p)


def conv_and_table(draw, rng):
    """A convolution and a function of it that is looked up in the same pass."""
    graph, conv, c_p, c = convolution(draw, rng, 2, draw(st.sampled_from(["dense", "depthwise"])))
    y_p = draw(activations())
    y_p = QParams(c_p.scale / np.float32(4), y_p.zero_point, y_p.dtype)
    conv = graph.dequantize(graph.quantize(conv, c_p), c_p)
    table = reference.lookup_table(lambda v: v * np.clip(v / 6 + 0.5, 0, 1), c_p, y_p)
    return graph, graph.node("HardSwish", conv), y_p, reference.look_up(c, table, c_p)


def product(draw, rng):
    """Gemm, with w as it is or transposed, or MatMul of a stack of matrices."""
    m, n, k = draw(BATCH), draw(CHANNELS), draw(CHANNELS)
    x_p, y_p = draw(activations()), draw(activations())
    transposed, stacked = draw(st.booleans()), draw(st.booleans())
    w, w_p = weights(draw, rng, (n, k), 0)
    x = integers(rng, (2, m, k) if stacked else (m, k), x_p)
    acc = reference.centred(x, x_p) @ w.T.astype(np.int64)
    y_p = fitting(rng, np.moveaxis(acc, -1, 0), x_p, w_p, y_p)
    graph = Graph()
    turned = QParams(w_p.scale, w_p.zero_point, "int8", None if w_p.axis is None else 1, True)
    if stacked or not transposed:
        fixed = graph.fixed(np.ascontiguousarray(w.T), turned)
    else:
        fixed = graph.fixed(w, w_p)
    real = graph.real(x, x_p)
    if stacked:
        return graph, graph.node("MatMul", real, fixed), y_p, reference.matmul(
            x, w.T, x_p, turned, y_p
        )  # fmt: skip
    bias = biases(draw, rng, acc.T)
    inputs = [real, fixed] + ([] if bias is None else [fixed_bias(graph, bias, x_p, w_p)])
    y = graph.node("Gemm", *inputs, transB=int(transposed))
    return graph, y, y_p, reference.gemm(x, w, bias, x_p, w_p, y_p)


def float_product(draw, rng):
    """A product whose result is float32: one multiplication of the accumulator."""
    m, n, k = draw(BATCH), draw(CHANNELS), draw(CHANNELS)
    x_p = draw(activations())
    w, w_p = weights(draw, rng, (k, n), 1)
    x = integers(rng, (m, k), x_p)
    graph = Graph()
    y = graph.node("MatMul", graph.real(x, x_p), graph.fixed(w, w_p))
    acc = reference.centred(x, x_p) @ w.astype(np.int64)
    return graph, y, None, acc.astype(np.float32) * (w_p.scale * x_p.scale).astype(np.float32)


SHAPES = [
    ((2, 3, 5, 7), (2, 3, 5, 7)), ((2, 3, 5, 7), (1, 3, 1, 1)), ((2, 33), (33,)), ((4, 1), (1, 6)),
    ((3, 1, 70), (5, 1)), ((130,), (1,)),
]  # fmt: skip
BINARY = {
    "Add": reference.add,
    "Sub": lambda *operands: reference.add(*operands, sign=-1),
    "Mul": reference.mul,
}


def binary(draw, rng):
    op, shapes = draw(st.sampled_from(sorted(BINARY))), draw(st.sampled_from(SHAPES))
    a_p, b_p, y_p = (draw(activations()) for _ in range(3))
    a, b = (integers(rng, s, p) for s, p in zip(shapes, (a_p, b_p), strict=True))
    graph = Graph()
    y = graph.node(op, graph.real(a, a_p), graph.real(b, b_p))
    return graph, y, y_p, BINARY[op](a, b, a_p, b_p, y_p)


def table_per_channel(draw, rng):
    """A product or sum with constants of each channel: 256 entries for each."""
    x_p, y_p = draw(activations()), draw(activations())
    channels, function = draw(st.integers(2, 20)), draw(st.sampled_from(["Mul", "Add", "PRelu"]))
    x = integers(rng, (draw(BATCH), channels, 3, 5), x_p)
    constants = rng.normal(size=(channels, 1, 1)).astype(np.float32)
    graph = Graph()
    y = graph.node(function, graph.real(x, x_p), graph.constant(constants))
    real = reference.dequantize(x, x_p)
    values = {
        "Mul": real * constants, "Add": real + constants,
        "PRelu": np.where(real < 0, real * constants, real),
    }[function]  # fmt: skip
    return graph, y, y_p, reference.quantize(values, y_p)


def pooled(draw, most_pads: int = 3):
    dims = draw(st.sampled_from([1, 2, 2]))
    size, kernel, attributes = windows(draw, dims, most_kernel=4)
    pads = [min(p, k - 1) for p, k in zip(attributes["pads"], kernel * 2, strict=True)]
    size = [max(n, k) for n, k in zip(size, kernel, strict=True)]
    return (draw(BATCH), draw(CHANNELS), *size), kernel, {
        "strides": attributes["strides"], "pads": pads
    }  # fmt: skip


def max_pool(draw, rng):
    p, (shape, kernel, attributes) = draw(activations()), pooled(draw)
    x = integers(rng, shape, p)
    graph = Graph()
    y = graph.node("MaxPool", graph.real(x, p), kernel_shape=kernel, **attributes)
    return graph, y, p, reference.max_pool(x, kernel=kernel, **attributes)


def average_pool(draw, rng):
    x_p, y_p, (shape, kernel, attributes) = draw(activations()), draw(activations()), pooled(draw)
    x, count = integers(rng, shape, x_p), draw(st.booleans())
    graph = Graph()
    y = graph.node(
        "AveragePool", graph.real(x, x_p), kernel_shape=kernel, **attributes,
        count_include_pad=int(count),
    )  # fmt: skip
    return graph, y, y_p, reference.average_pool(
        x, x_p, y_p, kernel=kernel, **attributes, count_include_pad=count
    )  # fmt: skip


def mean(draw, rng):
    """ReduceMean over any axes, and GlobalAveragePool."""
    x_p, y_p = draw(activations()), draw(activations())
    shape = (draw(BATCH), draw(CHANNELS), draw(st.integers(1, 9)), draw(st.integers(1, 9)))
    x, graph = integers(rng, shape, x_p), Graph()
    if draw(st.booleans()):
        y = graph.node("GlobalAveragePool", graph.real(x, x_p))
        return graph, y, y_p, reference.global_average_pool(x, x_p, y_p)
    axes = sorted(draw(st.sets(st.integers(0, 3), min_size=1)))
    constant = graph.constant(np.array(axes, np.int64))
    y = graph.node("ReduceMean", graph.real(x, x_p), constant, keepdims=1)
    return graph, y, y_p, reference.mean(x, x_p, y_p, axes=tuple(axes))


def extreme(draw, rng):
    """ReduceMax over any axes of integers, and ArgMax."""
    p, graph = draw(activations()), Graph()
    x = integers(rng, (draw(BATCH), draw(CHANNELS), draw(st.integers(1, 9)), 3), p)
    axis = draw(st.integers(0, 3))
    if draw(st.booleans()):
        y = graph.node("ArgMax", graph.real(x, p), axis=axis, keepdims=1)
        return graph, y, None, np.expand_dims(x.argmax(axis), axis)
    y = graph.node("ReduceMax", graph.real(x, p), graph.constant(np.array([axis], np.int64)))
    return graph, y, p, x.max(axis, keepdims=True)


def softmax(draw, rng):
    x_p, y_p = draw(activations()), draw(activations())
    y_p = QParams(np.float32(1 / draw(st.sampled_from([60, 256, 1000]))), y_p.zero_point, y_p.dtype)
    shape = (draw(BATCH), draw(CHANNELS), draw(st.integers(1, 6)))
    x, axis = integers(rng, shape, x_p), draw(st.integers(0, 2))
    graph = Graph()
    y = graph.node("Softmax", graph.real(x, x_p), axis=axis)
    return graph, y, y_p, reference.softmax(x, x_p, y_p, axis)


def concat(draw, rng):
    """Parts with qparams of their own, along any axis."""
    n, axis = draw(st.integers(2, 3)), draw(st.integers(0, 3))
    parts, y_p, graph = [], draw(activations()), Graph()
    for _ in range(n):
        p, shape = draw(activations()), [2, 17, 3, 5]
        shape[axis] = draw(st.integers(1, 20))
        parts.append((integers(rng, shape, p), p))
    y = graph.node("Concat", *(graph.real(q, p) for q, p in parts), axis=axis)
    return graph, y, y_p, reference.concat(parts, y_p, axis)


def quantize(draw, rng):
    """Floats of any kind, as they are or as an image for a convolution of one weight."""
    p = draw(activations())
    shape = (draw(BATCH), draw(CHANNELS), draw(st.integers(1, 20)), draw(st.integers(1, 20)))
    x = (rng.normal(size=shape) * 90 * p.scale).astype(np.float32)
    odd = rng.random(shape) < 0.05
    x[odd] = rng.choice(
        np.float32([0.0, -0.0, 3e38, -3e38, 1e-42, np.inf, -np.inf, np.nan]), odd.sum()
    )
    ties = rng.random(shape) < 0.1
    x[ties] = (rng.integers(-300, 300, ties.sum()) + 0.5).astype(np.float32) * p.scale
    graph = Graph()
    y = graph.dequantize(graph.quantize(graph.feed(x), p), p)
    expected = reference.quantize(x, p)
    if draw(st.booleans()):
        y = graph.node("MaxPool", y, kernel_shape=[1, 1])  # channels last inside
    return graph, y, p, expected


def dequantize(draw, rng):
    p, graph = draw(activations()), Graph()
    x = integers(rng, (draw(BATCH), draw(CHANNELS), 3), p)
    return graph, graph.real(x, p), None, reference.dequantize(x, p)


def movement(draw, rng):
    """Transpose, Slice and Pad of what a convolution would take."""
    p, graph = draw(activations()), Graph()
    x = integers(rng, (draw(BATCH), draw(CHANNELS), 6, 7), p)
    perm = draw(st.permutations(range(4)))
    pads = [draw(st.integers(0, 2)) for _ in range(8)]
    begin, step = draw(st.integers(0, 2)), draw(st.integers(1, 3))
    y = graph.node("Transpose", graph.real(x, p), perm=list(perm))
    y = graph.node("Pad", y, graph.constant(np.array(pads, np.int64)))
    ends = [graph.constant(np.array([n], np.int64)) for n in (begin, 1000, 3, step)]
    y = graph.node("Slice", y, *ends)
    moved = np.pad(
        x.transpose(perm), list(zip(pads[:4], pads[4:], strict=True)),
        constant_values=int(p.zero_point),
    )  # fmt: skip
    moved = moved[..., begin::step]
    if moved.size == 0:
        return dequantize(draw, rng)
    return graph, y, p, moved


CASES = {
    make.__name__: case(make)
    for make in (
        conv, grouped_conv, depthwise_conv, conv_and_residual, conv_and_table, product,
        float_product, binary, table_per_channel, max_pool, average_pool, mean, extreme, softmax,
        concat, quantize, dequantize, movement,
    )
}  # fmt: skip
