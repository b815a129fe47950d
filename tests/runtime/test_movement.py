"""Ops that only move elements: onnxruntime's answer, exactly, on integers and on floats."""

from __future__ import annotations

import numpy as np
import pytest
from runtime.graphs import Graph, integers, per_tensor, weight

INT64 = np.int64
P = per_tensor(0.05, 100, "int8")
C = {
    "reshape": lambda g, x: g.node("Reshape", x, g.constant(np.array([0, -1, 2], INT64))),
    "flatten": lambda g, x: g.node("Flatten", x, axis=2),
    "squeeze": lambda g, x: g.node("Squeeze", g.node("Unsqueeze", x, axes(g, 0, 3)), axes(g, 3)),
    "transpose": lambda g, x: g.node("Transpose", x, perm=[2, 0, 3, 1]),
    "transpose default": lambda g, x: g.node("Transpose", x),
    "channels last": lambda g, x: g.node("Transpose", x, perm=[0, 2, 3, 1]),
    "slice": lambda g, x: g.node(
        "Slice", x, axes(g, 1, 100), axes(g, 4, -99), axes(g, 1, 3), axes(g, 2, -2)
    ),
    "split": lambda g, x: g.node(
        "Concat", *g.node("Split", x, axes(g, 1, 3, 2), axis=1, n_outputs=3)[::-1], axis=1
    ),
    "split even": lambda g, x: g.node("Split", x, axis=2, num_outputs=2, n_outputs=2)[1],
    "pad": lambda g, x: g.node("Pad", x, axes(g, 0, 1, 2, 0, 0, 0, 1, 3)),
    "crop": lambda g, x: g.node("Pad", x, axes(g, 0, -1, 0, 1, 0, 0, -2, 0)),
    "expand": lambda g, x: g.node("Expand", x, axes(g, 3, 2, 1, 1, 1)),
    "tile": lambda g, x: g.node("Tile", x, axes(g, 1, 2, 3, 1)),
    "concat": lambda g, x: g.node("Concat", x, x, axis=-2),
    "concat channels": lambda g, x: g.node("Concat", x, x, axis=1),
    "identity": lambda g, x: g.node("Identity", x),
    "flatten and back": lambda g, x: g.node(
        "Reshape", g.node("Transpose", g.node("Reshape", x, axes(g, 0, 0, -1)), perm=[0, 2, 1]),
        axes(g, 0, 4, -1),
    ),
}  # fmt: skip
RANKS = {"reshape": 3, "flatten": 2, "squeeze": 5, "expand": 5, "flatten and back": 3}


def axes(graph: Graph, *values: int) -> str:
    return graph.constant(np.array(values, INT64))


@pytest.mark.parametrize("case", C)
def test_moving_integers(case, rng):
    graph = Graph()
    y = C[case](graph, graph.real(integers(rng, (2, 6, 4, 8), P), P))
    graph.output(graph.quantize(y, P), "int8", RANKS.get(case, 4))

    (y,) = graph.run()

    np.testing.assert_array_equal(y, graph.onnxruntime()[0])


@pytest.mark.parametrize("case", C)
def test_moving_floats(case, rng):
    graph = Graph()
    y = C[case](graph, graph.feed(rng.normal(size=(2, 6, 4, 8)).astype(np.float32)))
    graph.output(y, "float32", RANKS.get(case, 4))

    (y,) = graph.run()

    np.testing.assert_array_equal(y, graph.onnxruntime()[0])


@pytest.mark.parametrize("case", C)
def test_moving_what_a_convolution_made(case, rng):
    w, w_p = weight(rng, (6, 5, 1, 1))
    graph = Graph()
    conv = graph.node("Conv", graph.real(integers(rng, (2, 5, 4, 8), P), P), graph.fixed(w, w_p))
    conv = graph.dequantize(graph.quantize(conv, P), P)
    graph.output(graph.quantize(C[case](graph, conv), P), "int8", RANKS.get(case, 4))

    (y,) = graph.run()

    np.testing.assert_array_equal(y, graph.onnxruntime()[0])


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_depth_to_space(mode, rng):
    graph = Graph()
    y = graph.node(
        "DepthToSpace", graph.feed(rng.random((2, 12, 3, 5), np.float32)), blocksize=2, mode=mode
    )
    graph.output(y, "float32", 4)

    (y,) = graph.run()

    np.testing.assert_array_equal(y, graph.onnxruntime()[0])


def test_concat_requantizes_what_has_other_qparams(rng):
    a_p, b_p, y_p = per_tensor(0.1, 3), per_tensor(0.02, 100, "int8"), per_tensor(0.07, 30)
    graph = Graph()
    parts = [graph.real(integers(rng, (2, c, 3, 3), p), p) for c, p in ((4, a_p), (3, b_p))]
    graph.output(graph.quantize(graph.node("Concat", *parts, axis=1), y_p), "uint8", 4)

    (y,) = graph.run()

    np.testing.assert_array_equal(y, graph.onnxruntime()[0])


@pytest.mark.parametrize("dtype", ["int64", "int32", "bool", "float64"])
def test_moving_other_types(dtype, rng):
    graph = Graph()
    x = graph.feed(rng.integers(0, 2, (2, 3, 4)).astype(dtype))
    graph.output(graph.node("Transpose", x, perm=[2, 0, 1]), dtype, 3)

    (y,) = graph.run()

    np.testing.assert_array_equal(y, graph.onnxruntime()[0])


def test_an_output_that_is_an_input_is_a_copy(rng):
    graph = Graph()
    x = graph.feed(rng.random((2, 3), np.float32))
    for _ in range(2):
        graph.output(graph.node("Identity", x), "float32", 2)

    a, b = graph.run()

    np.testing.assert_array_equal(a, graph.feeds[x])
    assert a is not b
    assert not np.shares_memory(a, graph.feeds[x])
