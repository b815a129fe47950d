"""Small Programs that together have every op and every way to run it: what fuzzing starts from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import ml_dtypes
import numpy as np
from onnx import TensorProto
from runtime.graphs import Graph, integers, per_tensor, weight

from qtool.qparams import QParams
from qtool.runtime import Session
from qtool.runtime.program import Program

P = per_tensor(0.05, 100)


def programs() -> dict[str, bytes]:
    """Return the bytes of each Program by name."""
    return {name: lowered(make).to_bytes() for name, make in SEEDS.items()}


def lowered(make: Callable[[Graph, np.random.Generator], str]) -> Program:
    """Return the Program of what a seed makes."""
    graph = Graph(21)
    graph.output(make(graph, np.random.default_rng(0)), "float32", 4)
    return Session(graph.model()).program()


def _image(graph: Graph, rng, channels: int = 5) -> str:
    x = rng.normal(size=(2, channels, 6, 7)).astype(np.float32)
    return graph.dequantize(graph.quantize(graph.feed(x), P), P)


def _conv(graph: Graph, rng, x: str, c_in: int, c_out: int, kernel: int = 3, group: int = 1) -> str:
    w, w_p = weight(rng, (c_out, c_in // group, kernel, kernel))
    pads = [kernel // 2] * 4
    return graph.node("Conv", x, graph.fixed(w, w_p), pads=pads, group=group)


def _again(graph: Graph, x: str) -> str:
    return graph.dequantize(graph.quantize(x, P), P)


def convolutions(graph: Graph, rng) -> str:
    x = _again(graph, _conv(graph, rng, _image(graph, rng), 5, 64))
    x = _again(graph, _conv(graph, rng, x, 64, 64, group=64))
    x = _again(graph, graph.node("HardSwish", _again(graph, _conv(graph, rng, x, 64, 9, 1))))
    return _conv(graph, rng, x, 9, 6, 1, group=3)


def residual(graph: Graph, rng) -> str:
    x = _image(graph, rng, 16)
    y = _again(graph, _conv(graph, rng, x, 16, 16))
    return _again(graph, graph.node("Add", x, y))


def product(graph: Graph, rng) -> str:
    x = graph.feed(rng.normal(size=(2, 3, 5, 33)).astype(np.float32))
    w, w_p = weight(rng, (33, 20), 1)
    y = graph.node("MatMul", _again(graph, x), graph.fixed(w, w_p))
    return graph.node("Add", y, graph.constant(rng.normal(size=20).astype(np.float32)))


def pools(graph: Graph, rng) -> str:
    x = _image(graph, rng)
    x = graph.node("MaxPool", x, kernel_shape=[3, 3], pads=[1] * 4, strides=[2, 1])
    x = _again(graph, graph.node("AveragePool", x, kernel_shape=[2, 2], pads=[0, 1, 0, 0]))
    return graph.node("GlobalAveragePool", x)


def elementwise(graph: Graph, rng) -> str:
    x, y = _image(graph, rng), graph.real(integers(rng, (5, 1, 1), P), P)
    x = _again(graph, graph.node("Mul", _again(graph, graph.node("Sub", x, y)), y))
    x = graph.node("Sigmoid", x)
    return graph.node("Relu", graph.node("Div", x, graph.feed(np.ones((7,), np.float32))))


def movement(graph: Graph, rng) -> str:
    x = _image(graph, rng)
    a, b = graph.node("Split", x, axis=1, n_outputs=2, num_outputs=2)
    x = graph.node("Concat", b, a, axis=1)
    x = graph.node("Transpose", x, perm=[0, 2, 1, 3])
    x = graph.node("Pad", x, graph.constant(np.array([0, 1, 0, 2, 0, 0, 0, 1])))
    return graph.node("Softmax", x, axis=2)


def floats(graph: Graph, rng) -> str:
    x = graph.feed(rng.normal(size=(2, 5, 6, 7)).astype(np.float32))
    x = graph.node("MaxPool", x, kernel_shape=[2, 2])
    return graph.node("AveragePool", x, kernel_shape=[3, 3], pads=[1] * 4)


def float_products(graph: Graph, rng) -> str:
    def constant(*shape: int) -> str:
        return graph.constant(rng.normal(size=shape).astype(np.float32))

    x = graph.feed(rng.normal(size=(2, 8, 6, 7)).astype(np.float32))
    x = graph.node("Conv", x, constant(8, 4, 3, 3), constant(8), pads=[1] * 4, group=2)
    x = graph.node("Conv", x, constant(8, 1, 3, 3), pads=[1] * 4, group=8, strides=[2, 1])
    w, w_p = weight(rng, (70, 8, 3, 3))
    x = graph.node("Conv", x, graph.fixed(w, w_p))
    x = graph.node("MatMul", x, constant(5, 33))
    w, w_p = weight(rng, (33, 130), 1)
    x = graph.node("MatMul", x, graph.fixed(w, w_p))
    return graph.node("MatMul", x, graph.node("Transpose", x, perm=[0, 1, 3, 2]))


def four_bits(graph: Graph, rng) -> str:
    q = rng.integers(-8, 8, (130, 70)).astype(ml_dtypes.int4)
    scales = graph.constant(rng.uniform(0.1, 1, (5, 70)).astype(np.float32))
    zeros = graph.constant(rng.integers(-8, 8, (5, 70)).astype(ml_dtypes.int4))
    inputs = graph.constant(q), scales, zeros
    w = graph.node("DequantizeLinear", *inputs, axis=0, block_size=32)
    return graph.node("MatMul", graph.feed(rng.normal(size=(2, 3, 5, 130)).astype(np.float32)), w)


def recurrent(graph: Graph, rng) -> str:
    def floats(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    x, width = graph.feed(floats(5, 2, 6)), 33
    lengths = graph.feed(np.array([3, 5], np.int32))
    for op, gates in (("RNN", 1), ("LSTM", 4), ("GRU", 3)):
        w = graph.constant(floats(2, gates * width, 6))
        q, q_p = weight(rng, (2, gates * width, width), 1)
        bias = graph.constant(floats(2, 2 * gates * width))
        more = ["", "", graph.constant(floats(2, 3 * width))] if op == "LSTM" else []
        ys = graph.node(
            op, x, w, graph.fixed(q, q_p), bias, lengths, *more, n_outputs=2 + (op == "LSTM"),
            direction="bidirectional", hidden_size=width, clip=3.0,
            **({"linear_before_reset": 1} if op == "GRU" else {}),
        )  # fmt: skip
        x = graph.node("Slice", ys[0], *map(graph.constant, ([0, 0], [1, 6], [1, 3])))
        x = graph.node("Squeeze", x, graph.constant([1]))
    return ys[0]


def transposed(graph: Graph, rng) -> str:
    x = _image(graph, rng, 4)
    w, _ = weight(rng, (4, 3, 3, 2))
    w_p = QParams(np.array(0.01, np.float32), np.array(0, np.int32), "int8")
    attributes = {"strides": [2, 3], "group": 2, "pads": [1, 0, 0, 1]}
    x = graph.node("ConvTranspose", x, graph.fixed(w, w_p), **attributes)
    w = graph.constant(rng.normal(size=(6, 2, 2, 2)).astype(np.float32))
    return graph.node("ConvTranspose", x, w, strides=[2, 2])


def dynamic(graph: Graph, rng) -> str:
    x = graph.feed(rng.normal(size=(2, 8, 6, 7)).astype(np.float32))
    for group, shape in ((1, (20, 8, 3, 3)), (20, (20, 1, 3, 3))):
        q, scale, zero = graph.node("DynamicQuantizeLinear", x, n_outputs=3)
        w = graph.constant(rng.integers(-9, 9, shape).astype(np.int8))
        along = graph.constant(rng.uniform(0.01, 0.1, (20, 1, 1)).astype(np.float32))
        sums = graph.node("ConvInteger", q, w, zero, group=group)
        factor = graph.node("Mul", scale, along)
        product = graph.node("Mul", graph.node("Cast", sums, to=1), factor)
        x = graph.node("Add", product, along)
    return x


def wide_products(graph: Graph, rng) -> str:
    p = per_tensor(0.001, 1000, "uint16")
    x = graph.feed(rng.normal(size=(2, 8, 6, 7)).astype(np.float32))
    x = graph.dequantize(graph.quantize(x, p), p)
    w, w_p = weight(rng, (8, 4, 3, 3))
    w_p = replace(w_p, zero_point=np.arange(8, dtype=np.int32))
    x = graph.node("Conv", x, graph.fixed(w, w_p), pads=[1] * 4, group=2)
    x = graph.dequantize(graph.quantize(x, p), p)
    w, w_p = weight(rng, (8, 1, 3, 3))
    x = graph.node("Conv", x, graph.fixed(w, w_p), pads=[1] * 4, group=8)
    x = graph.dequantize(graph.quantize(x, p), p)
    y = graph.node("Transpose", x, perm=[0, 1, 3, 2])
    q, _, zero = graph.node("DynamicQuantizeLinear", graph.node("MatMul", x, y), n_outputs=3)
    signed = graph.constant(rng.integers(-9, 9, (6, 3)).astype(np.int8))
    sums = graph.node("MatMulInteger", q, signed, zero)
    other = graph.node("MatMulInteger", q, q, zero, zero)
    kernel = graph.constant(rng.integers(-9, 9, (4, 8, 1, 1)).astype(np.int8))
    conv = graph.node("ConvInteger", q, kernel, zero)
    sums = [graph.node("Cast", graph.node("ReduceSum", v), to=1) for v in (sums, other, conv)]
    total = graph.node("Add", graph.node("Add", sums[0], sums[1]), sums[2])
    scale = graph.feed(np.full(8, 0.01, np.float32))
    q = graph.node("QuantizeLinear", graph.node("Add", x, total), scale, axis=1)
    return graph.node("DequantizeLinear", q, scale, axis=1)


def typed(graph: Graph, rng) -> str:
    x = graph.feed(rng.normal(size=(2, 5, 6, 7)).astype(np.float32))
    indices = graph.feed(np.array([[3, 0], [-1, 2]], np.int64))
    whole = graph.node("Cast", x, to=TensorProto.INT64)
    whole = graph.node("Mod", graph.node("Mul", whole, whole), graph.constant(np.int64(3)))
    some = graph.node("Less", whole, graph.constant(np.int64([1, 0, 2, 1, 0, 3, 1])))
    x = graph.node("Where", some, x, graph.node("Cast", whole, to=TensorProto.FLOAT))
    x = graph.node("Gather", x, indices, axis=1)
    return graph.node("Squeeze", graph.node("Slice", x, *_axes(graph, [0], [1], [0])), *_axes(
        graph, [0]))  # fmt: skip


def reductions(graph: Graph, rng) -> str:
    x = graph.feed(rng.normal(size=(2, 5, 6, 7)).astype(np.float32))
    y = _again(graph, graph.node("ReduceMean", _again(graph, x), *_axes(graph, [1, 3])))
    for op in ("ReduceL2", "ReduceMax", "ReduceMin", "ReduceProd"):
        y = graph.node("Add", y, graph.node(op, x, *_axes(graph, [0, 2])))
    for op, axis in (("ArgMax", 1), ("ArgMin", 3)):
        index = graph.node(op, x, axis=axis)
        y = graph.node("Add", y, graph.node("Cast", index, to=TensorProto.FLOAT))
    return y


def normalizations(graph: Graph, rng) -> str:
    def constant(*shape: int) -> str:
        return graph.constant(rng.normal(size=shape).astype(np.float32))

    x = graph.feed(rng.normal(size=(2, 5, 6, 7)).astype(np.float32))
    scales = graph.constant(np.float32([1, 1, 1.7, 2.5]))
    x = graph.node("Resize", x, "", scales, mode="linear")
    x = graph.node("InstanceNormalization", x, constant(5), constant(5))
    x = graph.node("LayerNormalization", x, constant(17), constant(17))
    return graph.node("Softmax", _again(graph, x), axis=-1)


def softmax(graph: Graph, rng) -> str:
    return _again(graph, graph.node("Softmax", _image(graph, rng), axis=-1))


def _axes(graph: Graph, *lists: list[int]) -> list[str]:
    return [graph.constant(np.array(values, np.int64)) for values in lists]


SEEDS = {
    f.__name__: f
    for f in (
        convolutions, residual, product, pools, elementwise, movement, floats, float_products,
        dynamic, four_bits, recurrent, transposed, wide_products, typed, reductions, normalizations,
        softmax,
    )
}  # fmt: skip
