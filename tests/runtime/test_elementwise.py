from __future__ import annotations

import math

import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st
from runtime.graphs import Graph, activations, integers, per_tensor

FUNCTIONS = {
    "Relu": (lambda x: np.maximum(x, 0), {}),
    "LeakyRelu": (lambda x: np.where(x < 0, x * np.float32(0.1), x), {"alpha": 0.1}),
    "Sigmoid": (lambda x: 1 / (1 + np.exp(-x)), {}),
    "Tanh": (np.tanh, {}),
    "HardSwish": (lambda x: x * np.clip(x / 6 + 0.5, 0, 1), {}),
    "HardSigmoid": (lambda x: np.clip(np.float32(0.2) * x + 0.5, 0, 1), {"alpha": 0.2}),
    "Elu": (lambda x: np.where(x < 0, np.expm1(x), x), {}),
    "Gelu": (lambda x: x / 2 * (1 + np.vectorize(math.erf)(x / math.sqrt(2))), {}),
    "Exp": (np.exp, {}),
    "Abs": (np.abs, {}),
}
SHAPES = [((5, 4), (5, 4)), ((2, 3, 5, 7), (1, 3, 1, 1)), ((2, 3, 5, 7), (7,)), ((4, 1), (1, 6))]
BINARY = {
    "Add": reference.add,
    "Sub": lambda *operands: reference.add(*operands, sign=-1),
    "Mul": reference.mul,
}


@pytest.mark.parametrize("op", FUNCTIONS)
@given(x_p=activations(), y_p=activations())
def test_functions_of_one_operand_are_tables(op, x_p, y_p):
    function, attributes = FUNCTIONS[op]
    low, high = x_p.limits
    x = np.arange(low, high + 1).astype(x_p.dtype)
    graph = Graph()
    y = graph.node(op, graph.real(x, x_p), **attributes)
    graph.output(graph.quantize(y, y_p), y_p.dtype, 1)

    (y,) = graph.run()

    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(y, reference.lookup_table(function, x_p, y_p))


@pytest.mark.parametrize("op", BINARY)
@given(data=st.data())
def test_functions_of_two_operands_equal_the_reference(op, data):
    a_p, b_p, y_p = (data.draw(activations()) for _ in range(3))
    a_shape, b_shape = data.draw(st.sampled_from(SHAPES))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    a, b = integers(rng, a_shape, a_p), integers(rng, b_shape, b_p)
    graph = Graph()
    y = graph.node(op, graph.real(a, a_p), graph.real(b, b_p))
    rank = max(a.ndim, b.ndim)
    graph.output(graph.quantize(y, y_p), y_p.dtype, rank)

    (y,) = graph.run()

    np.testing.assert_array_equal(y, BINARY[op](a, b, a_p, b_p, y_p))


def test_a_constant_operand_is_quantized_too(rng):
    a_p, b_p, y_p = per_tensor(0.1, 3), per_tensor(0.02, 200), per_tensor(0.05, 9)
    a, b = integers(rng, (2, 5, 4), a_p), integers(rng, (5, 1), b_p)
    graph = Graph()
    y = graph.node("Mul", graph.real(a, a_p), graph.fixed(b, b_p))
    graph.output(graph.quantize(y, y_p), "uint8", 3)

    (y,) = graph.run()

    np.testing.assert_array_equal(y, reference.mul(a, b, a_p, b_p, y_p))


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div"])
@pytest.mark.parametrize("left", [True, False])
def test_a_constant_scalar_makes_a_table(op, left):
    a_p, y_p = per_tensor(0.1, 30), per_tensor(0.25, 90)
    a = np.arange(256).astype(np.uint8)
    graph = Graph()
    operands = [graph.real(a, a_p), graph.constant(np.float32(3.5))]
    y = graph.node(op, *(operands if left else operands[::-1]))
    graph.output(graph.quantize(y, y_p), "uint8", 1)

    (y,) = graph.run()

    np.testing.assert_array_equal(y, graph.onnxruntime()[0])


def test_a_chain_of_functions_rounds_once():
    x_p, y_p = per_tensor(0.05, 128), per_tensor(0.01, 10)
    x = np.arange(256).astype(np.uint8)
    graph = Graph()
    y = graph.node("Tanh", graph.node("HardSwish", graph.real(x, x_p)))
    graph.output(graph.quantize(y, y_p), "uint8", 1)

    (y,) = graph.run()

    table = reference.lookup_table(lambda v: np.tanh(v * np.clip(v / 6 + 0.5, 0, 1)), x_p, y_p)
    np.testing.assert_array_equal(y, table)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38, -3e38, 1e-42])
@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_quantizing_any_float(value, dtype):
    y_p = per_tensor(0.1, 7, dtype)
    graph = Graph()
    graph.output(graph.quantize(graph.feed(np.float32([value, 0, 1])), y_p), dtype, 1)

    (y,) = graph.run()

    np.testing.assert_array_equal(y, reference.quantize(np.float32([value, 0, 1]), y_p))


@given(data=st.data())
def test_quantizing_and_dequantizing(data):
    p = data.draw(activations())
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    x = (rng.normal(size=(2, 3, 9)) * 60 * p.scale).astype(np.float32)
    graph = Graph()
    q = graph.quantize(graph.feed(x), p)
    graph.output(q, p.dtype, 3)
    graph.output(graph.dequantize(q, p), "float32", 3)

    q, y = graph.run()

    np.testing.assert_array_equal(q, reference.quantize(x, p))
    np.testing.assert_array_equal(y, reference.dequantize(reference.quantize(x, p), p))
