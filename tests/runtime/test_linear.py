from __future__ import annotations

import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st
from runtime.graphs import ISAS, Graph, activations, integers, per_tensor, weight

from qtool.qparams import QParams


@st.composite
def convolutions(draw, dims: int):
    """Draw the shapes and attributes of a convolution."""
    group = draw(st.sampled_from([1, 1, 2, 3]))
    channels = [group * draw(st.integers(1, 9)) for _ in range(2)]
    if draw(st.booleans()) and group > 1:
        channels = [channels[0]] * 2
        group = channels[0]  # depthwise
    kernel = [draw(st.integers(1, 3)) for _ in range(dims)]
    dilations = [draw(st.integers(1, 2)) for _ in range(dims)]
    pads = [draw(st.integers(0, 2)) for _ in range(2 * dims)]
    strides = [draw(st.integers(1, 3)) for _ in range(dims)]
    size = [d * (k - 1) + draw(st.integers(1, 6)) for d, k in zip(dilations, kernel, strict=True)]
    shape = (draw(st.integers(1, 3)), channels[0], *size)
    return shape, channels[1], kernel, {
        "group": group, "strides": strides, "pads": pads, "dilations": dilations
    }  # fmt: skip


def conv_graph(rng, case, x_p, y_p, *, relu=False, bias=True):
    shape, c_out, kernel, attributes = case
    x = integers(rng, shape, x_p)
    w, w_p = weight(rng, (c_out, shape[1] // attributes["group"], *kernel))
    b = rng.integers(-5000, 5000, c_out).astype(np.int32) if bias else None
    graph = Graph()
    inputs = [graph.real(x, x_p), graph.fixed(w, w_p)]
    if b is not None:
        inputs.append(
            graph.fixed(b, QParams(x_p.scale * w_p.scale, np.zeros(c_out, np.int32), "int32", 0))
        )
    y = graph.node("Conv", *inputs, **attributes)
    y = graph.node("Relu", y) if relu else y
    graph.output(graph.quantize(y, y_p), y_p.dtype, len(shape))
    clamp = (int(y_p.zero_point), y_p.limits[1]) if relu else None
    expected = reference.conv(x, w, b, x_p, w_p, y_p, **attributes, clamp=clamp)
    return graph, expected


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dims", [1, 2])
@given(data=st.data())
def test_conv_equals_the_reference(isa, dims, data):
    case = data.draw(convolutions(dims))
    x_p, y_p = data.draw(activations()), data.draw(activations())
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    relu, bias = data.draw(st.booleans()), data.draw(st.booleans())
    graph, expected = conv_graph(rng, case, x_p, y_p, relu=relu, bias=bias)

    (y,) = graph.run(isa, threads=data.draw(st.integers(1, 2)))

    np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("trans_b", [0, 1])
@pytest.mark.parametrize(("m", "n", "k"), [(1, 1, 1), (1, 17, 3), (5, 64, 65), (13, 49, 128)])
def test_gemm_equals_the_reference(isa, trans_b, m, n, k, rng):
    x_p, y_p = per_tensor(0.02, 3), per_tensor(0.5, 250)
    x = integers(rng, (m, k), x_p)
    w, w_p = weight(rng, (n, k) if trans_b else (k, n), 0 if trans_b else 1)
    b = rng.integers(-9999, 9999, n).astype(np.int32)
    graph = Graph()
    b_p = QParams(x_p.scale * w_p.scale, np.zeros(n, np.int32), "int32", 0)
    y = graph.node(
        "Gemm", graph.real(x, x_p), graph.fixed(w, w_p), graph.fixed(b, b_p), transB=trans_b
    )
    graph.output(graph.quantize(y, y_p), "uint8", 2)

    (y,) = graph.run(isa)

    w_n = w if trans_b else w.T
    rows = QParams(w_p.scale, w_p.zero_point, "int8", 0, True)
    np.testing.assert_array_equal(y, reference.gemm(x, w_n, b, x_p, rows, y_p))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("axis", [None, 1])
@pytest.mark.parametrize("shape", [(7,), (3, 7), (2, 3, 7)])
def test_matmul_equals_the_reference(isa, axis, shape, rng):
    x_p, y_p = per_tensor(0.02, -128, "int8"), per_tensor(0.05, -20, "int8")
    x = integers(rng, shape, x_p)
    w, w_p = weight(rng, (7, 5), axis)
    graph = Graph()
    y = graph.node("MatMul", graph.real(x, x_p), graph.fixed(w, w_p))
    graph.output(graph.quantize(y, y_p), "int8", len(shape))

    (y,) = graph.run(isa)

    np.testing.assert_array_equal(y, reference.matmul(x, w, x_p, w_p, y_p))


@pytest.mark.parametrize("isa", ISAS)
def test_a_float_result_is_the_accumulator_times_the_scales(isa, rng):
    x_p = per_tensor(0.02, 200)
    x = integers(rng, (6, 33), x_p)
    w, w_p = weight(rng, (33, 20), 1)
    graph = Graph()
    graph.output(graph.node("MatMul", graph.real(x, x_p), graph.fixed(w, w_p)), "float32", 2)

    (y,) = graph.run(isa)

    acc = reference.centred(x, x_p) @ w.astype(np.int64)
    np.testing.assert_array_equal(y, acc.astype(np.float32) * (w_p.scale * x_p.scale))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("quantized", [False, True])
def test_matmul_and_add_of_a_float_bias(isa, quantized, rng):
    x_p, y_p = per_tensor(0.02, 200), per_tensor(0.1, 128)
    x = integers(rng, (2, 6, 33), x_p)
    w, w_p = weight(rng, (33, 20), 1)
    b = rng.normal(size=20).astype(np.float32)
    graph = Graph()
    y = graph.node("MatMul", graph.real(x, x_p), graph.fixed(w, w_p))
    y = graph.node("Add", graph.constant(b), y)
    y = graph.quantize(y, y_p) if quantized else y
    graph.output(y, "uint8" if quantized else "float32", 3)

    (y,) = graph.run(isa)

    acc = reference.centred(x, x_p) @ w.astype(np.int64)
    real = acc.astype(np.float32) * (w_p.scale * x_p.scale) + b
    np.testing.assert_array_equal(y, reference.quantize(real, y_p) if quantized else real)


@pytest.mark.parametrize("isa", ISAS)
def test_accumulators_near_the_limits(isa):
    depth = 66_000  # times 255 * 127 is just below 2^31
    x_p, y_p = per_tensor(1e-3, 0), per_tensor(3e4, 100)
    x = np.full((2, depth), 255, np.uint8)
    w = np.full((depth, 3), 127, np.int8)
    w[:, 1] = -127
    w_p = per_tensor(1e-2, 0, "int8")
    graph = Graph()
    y = graph.node("MatMul", graph.real(x, x_p), graph.fixed(w, w_p))
    graph.output(graph.quantize(y, y_p), "uint8", 2)

    (y,) = graph.run(isa)

    np.testing.assert_array_equal(y, reference.matmul(x, w, x_p, w_p, y_p))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("sign", [1, -1])
def test_a_sum_with_a_residual_rounds_twice(isa, sign, rng):
    x_p, c_p, r_p, y_p = (
        per_tensor(0.02, 3), per_tensor(0.11, 77), per_tensor(0.07, 130), per_tensor(0.13, 100)
    )  # fmt: skip
    x, r = integers(rng, (2, 5, 7, 6), x_p), integers(rng, (2, 33, 7, 6), r_p)
    w, w_p = weight(rng, (33, 5, 3, 3))
    graph = Graph()
    real, other = graph.real(x, x_p), graph.real(r, r_p)
    conv = graph.node("Conv", real, graph.fixed(w, w_p), pads=[1, 1, 1, 1])
    conv = graph.dequantize(graph.quantize(conv, c_p), c_p)
    y = graph.node("Add", conv, other) if sign == 1 else graph.node("Sub", other, conv)
    graph.output(graph.quantize(graph.node("Relu", y), y_p), "uint8", 4)

    (y,) = graph.run(isa)

    c = reference.conv(x, w, None, x_p, w_p, c_p, pads=[1, 1, 1, 1])
    a, b, p, q = (c, r, c_p, r_p) if sign == 1 else (r, c, r_p, c_p)
    expected = reference.add(a, b, p, q, y_p, sign=sign, clamp=(100, 255))
    np.testing.assert_array_equal(y, expected)
