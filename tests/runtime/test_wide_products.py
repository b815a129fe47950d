"""Integer products beyond int8 weights without zero points: equal to the reference, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from runtime.graphs import ISAS, Graph, integers, per_tensor
from runtime.test_linear import convolutions

from qtool.qparams import DTYPES, QParams
from qtool.runtime import Session

F = np.float32
ISAS = ISAS[:3]


@st.composite
def activations(draw, dtypes=("uint8", "int8", "uint16", "int16")) -> QParams:
    dtype = draw(st.sampled_from(dtypes))
    low, high = DTYPES[dtype]
    zero = draw(st.one_of(st.sampled_from([low, high]), st.integers(low, high)))
    scale = draw(st.sampled_from([0.5, 0.037, 0.0041])) / (256 if "16" in dtype else 1)
    return per_tensor(scale, zero, dtype)


@st.composite
def weights(draw, rng, shape, axis: int, dtype: str | None = None):
    """Draw integers of a weight and their qparams, with zero points."""
    dtype = dtype or draw(st.sampled_from(["int8", "uint8"]))
    low, high = DTYPES[dtype]
    size = (shape[axis],) if draw(st.booleans()) else ()
    zero = rng.integers(low, high + 1, size).astype(np.int32)
    scale = rng.uniform(1e-3, 2e-2, size).astype(F)
    w = rng.integers(low, high + 1, shape).astype(dtype)
    return w, QParams(scale, np.asarray(zero, np.int32), dtype, axis if size else None)


def equal(graph: Graph, expected, isa=None, threads=1) -> None:
    (y,) = graph.run(isa, threads=threads)
    np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dims", [1, 2, 3])
@settings(max_examples=20)
@given(data=st.data())
def test_conv_equals_the_reference(isa, dims, data):
    shape, c_out, kernel, attributes = data.draw(convolutions(dims))
    x_p, y_p = data.draw(activations()), data.draw(activations())
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    x = integers(rng, shape, x_p)
    w, w_p = data.draw(weights(rng, (c_out, shape[1] // attributes["group"], *kernel), 0))
    b = rng.integers(-5000, 5000, c_out).astype(np.int32)
    b_scale = (x_p.scale * w_p.scale).astype(F)
    b_p = QParams(b_scale, np.zeros(b_scale.shape, np.int32), "int32", w_p.axis)
    graph = Graph()
    inputs = graph.real(x, x_p), graph.fixed(w, w_p), graph.fixed(b, b_p)
    graph.output(
        graph.quantize(graph.node("Conv", *inputs, **attributes), y_p), y_p.dtype, len(shape)
    )

    equal(graph, reference.conv(x, w, b, x_p, w_p, y_p, **attributes), isa)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("depth", [1, 64, 700])
@settings(max_examples=20)
@given(data=st.data())
def test_matmul_with_a_constant_equals_the_reference(isa, depth, data):
    x_p, y_p = data.draw(activations()), data.draw(activations())
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    m, n = data.draw(st.sampled_from([(1, 1), (33, 17), (2, 40)]))
    x = integers(rng, (2, m, depth), x_p)
    w, w_p = data.draw(weights(rng, (depth, n), 1))
    graph = Graph()
    y = graph.node("MatMul", graph.real(x, x_p), graph.fixed(w, w_p))
    graph.output(graph.quantize(y, y_p), y_p.dtype, 3)

    equal(graph, reference.matmul(x, w, x_p, w_p, y_p), isa)


SHAPES = [
    ((5, 7), (7, 3)), ((2, 3, 33, 65), (2, 3, 65, 17)), ((2, 3, 4, 5), (3, 5, 6)), ((7,), (7, 4)),
    ((4, 7), (7,)), ((1, 700), (700, 40)),
]  # fmt: skip


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("shapes", SHAPES)
@settings(max_examples=20)
@given(data=st.data())
def test_product_of_two_activations_equals_the_reference(isa, shapes, data):
    a_p, b_p, y_p = (data.draw(activations()) for _ in range(3))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    a, b = integers(rng, shapes[0], a_p), integers(rng, shapes[1], b_p)
    graph = Graph()
    y = graph.quantize(graph.node("MatMul", graph.real(a, a_p), graph.real(b, b_p)), y_p)
    acc = reference.centred(a, a_p) @ reference.centred(b, b_p)
    expected = reference.requantize(acc, reference.multiplier(a_p, b_p, y_p), y_p)
    graph.output(y, y_p.dtype, expected.ndim)

    equal(graph, expected, isa, threads=2)


@pytest.mark.parametrize("dtype", ["int16", "uint16"])
def test_sums_beyond_int32(dtype):
    low, high = DTYPES[dtype]
    x_p, y_p = per_tensor(1e-4, low, dtype), per_tensor(1.0, low, dtype)
    w_p = QParams(np.array(0.01, F), np.array(0, np.int32), "int8")
    x, w = np.full((3, 3000), high).astype(dtype), np.full((3000, 20), -127, np.int8)
    w[:, ::2] = 127
    graph = Graph()
    y = graph.node("MatMul", graph.real(x, x_p), graph.fixed(w, w_p))
    graph.output(graph.quantize(y, y_p), dtype, 2)

    equal(graph, reference.matmul(x, w, x_p, w_p, y_p))


@pytest.mark.parametrize("dtype", ["int16", "uint16", "int8"])
def test_float_results_of_wide_products(dtype, rng):
    x_p = per_tensor(0.01, 7, dtype)
    x, w = integers(rng, (5, 40), x_p), rng.integers(0, 256, (40, 6)).astype(np.uint8)
    w_p = QParams(np.array(0.02, F), np.array(100, np.int32), "uint8")
    graph = Graph()
    graph.output(graph.node("MatMul", graph.real(x, x_p), graph.fixed(w, w_p)), "float32", 2)
    acc = reference.centred(x, x_p) @ reference.centred(w, w_p)

    equal(graph, acc.astype(F) * (x_p.scale * w_p.scale))


@pytest.mark.parametrize("op", ["Conv", "MatMul"])
def test_16_bits_of_8_bit_operands(op, rng):
    x_p, y_p = per_tensor(0.01, 7), per_tensor(0.002, 3000, "uint16")
    w_p = QParams(rng.uniform(1e-3, 1e-2, 6).astype(F), np.zeros(6, np.int32), "int8", 0)
    if op == "MatMul":
        w_p = QParams(w_p.scale, w_p.zero_point, "int8", 1)
    x = integers(rng, (2, 5, 5) if op == "Conv" else (9, 5), x_p)
    w = rng.integers(-127, 128, (6, 5, 3) if op == "Conv" else (5, 6)).astype(np.int8)
    graph = Graph(21)
    y = graph.quantize(graph.node(op, graph.real(x, x_p), graph.fixed(w, w_p)), y_p)
    graph.output(y, "uint16", x.ndim)
    expected = (
        reference.conv(x, w, None, x_p, w_p, y_p) if op == "Conv"
        else reference.matmul(x, w, x_p, w_p, y_p)
    )  # fmt: skip

    equal(graph, expected)


def against_onnxruntime(graph: Graph, isa=None) -> None:
    for y, expected in zip(graph.run(isa), graph.onnxruntime(), strict=True):
        assert y.dtype == expected.dtype
        np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kind", ["normal", "positive", "negative", "zero", "tiny", "huge"])
def test_dynamic_quantize_equals_onnxruntime(isa, kind, rng):
    x = rng.normal(size=(3, 7, 11)).astype(F)
    x = {
        "normal": x, "positive": np.abs(x), "negative": -np.abs(x), "zero": x * 0,
        "tiny": x * F(1e-37), "huge": x * F(1e37),
    }[kind]  # fmt: skip
    graph = Graph()
    names = graph.node("DynamicQuantizeLinear", graph.feed(x), n_outputs=3)
    for name, dtype, rank in zip(names, ("uint8", "float32", "uint8"), (3, 0, 0), strict=True):
        graph.output(name, dtype, rank)

    against_onnxruntime(graph, isa)


def test_dynamic_quantize_of_what_is_not_finite():
    results = []
    for x in ([3.0, np.nan, -1.0], [np.inf, 1.0, -2.0], [np.nan, np.nan, np.nan]):
        graph = Graph()
        names = graph.node("DynamicQuantizeLinear", graph.feed(np.array(x, F)), n_outputs=3)
        for name, dtype in zip(names, ("uint8", "float32", "uint8"), strict=True):
            graph.output(name, dtype, 1)
        results.append([v.tolist() for v in graph.run()])

    assert results[0] == [[255, 64, 0], float(F(4) / F(255)), 64]
    assert results[1] == [[255, 3, 0], 1.0, 2]
    assert results[2] == [[0, 0, 0], 1.0, 0]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dims", [1, 2])
@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@settings(max_examples=20)
@given(data=st.data())
def test_conv_integer_equals_onnxruntime(isa, dims, dtype, data):
    shape, c_out, kernel, attributes = data.draw(convolutions(dims))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    x = rng.integers(0, 256, shape).astype(np.uint8)
    w = rng.integers(*(DTYPES[dtype]), (c_out, shape[1] // attributes["group"], *kernel)).astype(
        dtype
    )
    graph = Graph()
    inputs = [graph.feed(x), graph.constant(w)]
    if data.draw(st.booleans()):
        inputs.append(graph.feed(np.array(77, np.uint8)))
        inputs += [graph.constant(np.array(9, dtype))] if data.draw(st.booleans()) else []
    graph.output(graph.node("ConvInteger", *inputs, **attributes), "int32", len(shape))

    against_onnxruntime(graph, isa)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("types", ["uint8 int8", "uint8 uint8", "int8 int8"])
@pytest.mark.parametrize("zeros", ["", "a", "ab", "abs"])
def test_matmul_integer_equals_onnxruntime(isa, constant, types, zeros, rng):
    a, b = types.split()
    shapes = ((2, 35, 66), (66, 19)) if constant else ((2, 35, 66), (2, 66, 19))
    graph = Graph()
    values = [rng.integers(*DTYPES[t], s).astype(t) for t, s in zip((a, b), shapes, strict=True)]
    inputs = [graph.feed(values[0]), (graph.constant if constant else graph.feed)(values[1])]
    if zeros:
        inputs.append(graph.constant(np.array(5, a)))
    if "b" in zeros:
        size = 19 if zeros == "abs" and constant else ()
        inputs.append(graph.constant(rng.integers(0, 20, size).astype(b)))
    graph.output(graph.node("MatMulInteger", *inputs), "int32", 3)

    against_onnxruntime(graph, isa)


@pytest.mark.parametrize("op", ["Add", "Sigmoid", "MaxPool", "Concat", "Softmax", "Transpose"])
@pytest.mark.parametrize("dtype", ["int16", "uint16"])
def test_ops_of_16_bits_equal_onnxruntime_within_a_step(op, dtype, rng):
    x_p, y_p = per_tensor(2e-4, 100, dtype), per_tensor(3e-4, 5, dtype)
    graph = Graph(21)
    x = graph.real(integers(rng, (2, 3, 6, 5), x_p), x_p)
    inputs = (
        [x, graph.real(integers(rng, (2, 3, 6, 5), x_p), x_p)] if op in ("Add", "Concat") else [x]
    )
    attributes = {"MaxPool": {"kernel_shape": [2, 2]}, "Concat": {"axis": 1}}.get(op, {})
    graph.output(graph.quantize(graph.node(op, *inputs, **attributes), y_p), dtype, 4)
    (y,), (expected,) = graph.run(), graph.onnxruntime()

    assert y.dtype == expected.dtype
    assert np.abs(y.astype(int) - expected).max() <= (1 if op in ("Sigmoid", "Softmax") else 0)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16"])
@pytest.mark.parametrize("axis", [None, 0, 1, 2])
@pytest.mark.parametrize("fed", [False, True])
def test_quantization_along_any_axis(dtype, axis, fed, rng):
    shape, limits = (3, 4, 5), DTYPES[dtype]
    size = () if axis is None else shape[axis]
    scale = np.asarray(rng.uniform(0.01, 0.1, size), F)
    zero = np.asarray(rng.integers(limits[0] // 3, limits[1] // 3, size)).astype(dtype)
    graph = Graph(21)
    params = [(graph.feed if fed else graph.constant)(v) for v in (scale, zero)]
    attributes = {} if axis is None else {"axis": axis}
    x = graph.feed(rng.normal(size=shape).astype(F))
    q = graph.node("QuantizeLinear", x, *params, **attributes)
    graph.output(q, dtype, 3)
    graph.output(graph.node("DequantizeLinear", q, *params, **attributes), "float32", 3)

    against_onnxruntime(graph)


@pytest.mark.parametrize("op", ["ConvInteger", "MatMulInteger"])
@pytest.mark.parametrize("per_channel", [False, True])
def test_scales_of_the_run_become_part_of_the_product(op, per_channel, rng):
    x = rng.normal(size=(2, 5, 7) if op == "ConvInteger" else (2, 7, 5)).astype(F)
    w = rng.integers(-127, 128, (9, 5, 3) if op == "ConvInteger" else (5, 9)).astype(np.int8)
    along = (9, 1) if op == "ConvInteger" else (9,)
    graph = Graph()
    q, scale, zero = graph.node("DynamicQuantizeLinear", graph.feed(x), n_outputs=3)
    w_scale = graph.constant(rng.uniform(0.001, 0.01, along if per_channel else ()).astype(F))
    factor = graph.node("Mul", scale, w_scale)
    sums = graph.node("Cast", graph.node(op, q, graph.constant(w), zero), to=1)
    bias = graph.constant(rng.normal(size=along).astype(F))
    graph.output(graph.node("Add", graph.node("Mul", sums, factor), bias), "float32", 3)

    ops = [op.code for op in Session(graph.model()).program().ops]

    assert "Cast" not in ops
    assert ops.count("BinaryFloat") == 1  # of the scales
    against_onnxruntime(graph)
