from __future__ import annotations

import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st
from runtime.graphs import Graph, activations, integers, per_tensor


@st.composite
def pools(draw, dims: int):
    """Draw the shape and attributes of a pooling op; pads are smaller than the kernel."""
    kernel = [draw(st.integers(1, 4)) for _ in range(dims)]
    size = [k + draw(st.integers(0, 6)) for k in kernel]
    shape = (draw(st.integers(1, 2)), draw(st.integers(1, 9)), *size)
    pads = [draw(st.integers(0, k - 1)) for k in (*kernel, *kernel)]
    strides = [draw(st.integers(1, 3)) for _ in range(dims)]
    return shape, {"kernel": kernel, "strides": strides, "pads": pads}


def onnx_attributes(attributes):
    return {"kernel_shape": attributes["kernel"]} | {
        k: v for k, v in attributes.items() if k != "kernel"
    }


@pytest.mark.parametrize("dims", [1, 2])
@given(data=st.data())
def test_max_pool_equals_the_reference(dims, data):
    (shape, attributes), p = data.draw(pools(dims)), data.draw(activations())
    x = integers(np.random.default_rng(0), shape, p)
    graph = Graph()
    y = graph.node("MaxPool", graph.real(x, p), **onnx_attributes(attributes))
    graph.output(graph.quantize(y, p), p.dtype, len(shape))

    (y,) = graph.run()

    np.testing.assert_array_equal(y, reference.max_pool(x, **attributes))


@pytest.mark.parametrize("dims", [1, 2])
@given(data=st.data())
def test_average_pool_equals_the_reference(dims, data):
    shape, attributes = data.draw(pools(dims))
    x_p, y_p, count = data.draw(activations()), data.draw(activations()), data.draw(st.booleans())
    x = integers(np.random.default_rng(0), shape, x_p)
    graph = Graph()
    given_attributes = onnx_attributes(attributes) | {"count_include_pad": int(count)}
    y = graph.node("AveragePool", graph.real(x, x_p), **given_attributes)
    graph.output(graph.quantize(y, y_p), y_p.dtype, len(shape))

    (y,) = graph.run()

    expected = reference.average_pool(x, x_p, y_p, **attributes, count_include_pad=count)
    np.testing.assert_array_equal(y, expected)


@given(x_p=activations(), y_p=activations(), size=st.integers(1, 9))
def test_global_average_pool_equals_the_reference(x_p, y_p, size):
    x = integers(np.random.default_rng(size), (2, 35, size, 3), x_p)
    graph = Graph()
    y = graph.node("GlobalAveragePool", graph.real(x, x_p))
    graph.output(graph.quantize(y, y_p), y_p.dtype, 4)

    (y,) = graph.run()

    np.testing.assert_array_equal(y, reference.global_average_pool(x, x_p, y_p))


def test_a_float_mean_is_near_that_of_the_reals(rng):
    x_p = per_tensor(0.1, 40)
    x = integers(rng, (2, 5, 7, 3), x_p)
    graph = Graph()
    graph.output(graph.node("GlobalAveragePool", graph.real(x, x_p)), "float32", 4)

    (y,) = graph.run()

    real = reference.dequantize(x, x_p).astype(np.float64)
    np.testing.assert_allclose(y, real.mean(axis=(2, 3), keepdims=True), rtol=1e-6)


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
def test_ceil_mode(op, rng):
    p = per_tensor(0.1, 0)
    x = integers(rng, (1, 3, 12, 13), p)
    graph = Graph()
    real = graph.real(x, p)
    y = graph.node(op, real, kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1, pads=[0, 0, 0, 0])
    graph.output(graph.quantize(y, p), "uint8", 4)

    (y,) = graph.run()

    np.testing.assert_array_equal(y, graph.onnxruntime()[0])


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
def test_pooling_of_floats(op, rng):
    x = rng.normal(size=(2, 3, 9, 8)).astype(np.float32)
    graph = Graph()
    y = graph.node(op, graph.feed(x), kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 1])
    graph.output(y, "float32", 4)

    (y,) = graph.run()

    np.testing.assert_allclose(y, graph.onnxruntime()[0], rtol=1e-5, atol=1e-6)
