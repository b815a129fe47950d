"""How far float results are from the exact ones and from onnxruntime's: docs/kernels.md says 2.

The unit is an ulp of a scale, 2**-23 S: S is the largest of |x|, |y| and 1 for functions of one
operand, and the same sum over absolute values for products and reductions.
"""

from __future__ import annotations

import math
import zlib

import numpy as np
import pytest
from runtime.graphs import ISAS, Graph

from qtool.runtime.lower.functions import DEFAULTS, FUNCTIONS, PARAMETRIC

F = np.float32
ISAS = ISAS[:3]
ULP = 2.0**-23
MOST = 2.0  # of the unit


def worst(graph: Graph, exact: np.ndarray, scale: np.ndarray, isa: str) -> tuple[float, float]:
    """Return the largest distance from the exact result, and from onnxruntime's.

    The latter where that one is within a unit of the exact result itself.
    """
    ((y,), (other,)) = graph.run(isa), graph.onnxruntime()
    pairs = (y, exact), (y, other), (other, exact)
    distances = [np.abs(a.astype(np.float64) - b) / (ULP * scale) for a, b in pairs]
    return float(distances[0].max()), float(distances[1][distances[2] <= 1].max(initial=0))


def seeded(name: str) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(name.encode()))


FUNCTIONS_OF_ONE = sorted({*FUNCTIONS, *PARAMETRIC} - {"Swish"})  # onnxruntime has no Swish


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("op", FUNCTIONS_OF_ONE)
def test_functions(op, isa):
    rng = seeded(op)
    x = np.concatenate([rng.normal(size=9000) * s for s in (0.01, 1, 6)]).astype(F)
    x = np.abs(x) + F(1e-6) if op in ("Log", "Sqrt") else x
    graph = Graph(22)
    graph.output(graph.node(op, graph.feed(x)), "float32", 1)
    function = FUNCTIONS.get(op) or (lambda v: PARAMETRIC[op](v, *DEFAULTS[op]))
    exact = np.vectorize(math.erf)(x) if op == "Erf" else function(x.astype(np.float64))

    of_exact, of_other = worst(graph, exact, np.maximum(np.maximum(abs(x), abs(exact)), 1), isa)

    assert of_exact <= MOST
    assert of_other <= MOST


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("m", "k", "n"), [(1, 1, 1), (7, 64, 40), (33, 1000, 70)])
def test_matrix_products(m, k, n, isa):
    rng = seeded("MatMul")
    a, b = rng.normal(size=(m, k)).astype(F), rng.normal(size=(k, n)).astype(F)
    graph = Graph()
    graph.output(graph.node("MatMul", graph.feed(a), graph.constant(b)), "float32", 2)
    exact, scale = (f(a.astype(np.float64)) @ f(b.astype(np.float64)) for f in (np.array, np.abs))

    assert max(worst(graph, exact, scale, isa)) <= MOST


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("group", [1, 4, 16])
def test_convolutions(group, isa):
    rng = seeded("Conv")
    x = rng.normal(size=(2, 16, 9, 8)).astype(F)
    w, bias = rng.normal(size=(16, 16 // group, 3, 3)).astype(F), rng.normal(size=16).astype(F)
    results = []
    for f in (np.array, np.abs):
        windows = np.lib.stride_tricks.sliding_window_view(f(x).astype(float), (3, 3), (2, 3))
        parts = windows.reshape(2, group, 16 // group, 7, 6, 3, 3)
        grouped = f(w).astype(float).reshape(group, 16 // group, 16 // group, 3, 3)
        y = np.einsum("ngchwij,gocij->ngohw", parts, grouped).reshape(2, 16, 7, 6)
        results.append(y + f(bias)[:, None, None])
    graph = Graph()
    inputs = graph.feed(x), graph.constant(w), graph.constant(bias)
    graph.output(graph.node("Conv", *inputs, group=group), "float32", 4)

    assert max(worst(graph, *results, isa)) <= MOST


REDUCTIONS = {
    "ReduceSum": (np.sum, lambda x: np.abs(x).sum(-1)),
    "ReduceMean": (np.mean, lambda x: np.abs(x).mean(-1)),
    "ReduceL1": (lambda x, axis: np.abs(x).sum(axis), lambda x: np.abs(x).sum(-1)),
    "ReduceL2": (
        lambda x, axis: np.sqrt((x * x).sum(axis)),
        lambda x: np.sqrt((x * x).sum(-1)),
    ),
    "ReduceSumSquare": (lambda x, axis: (x * x).sum(axis), lambda x: (x * x).sum(-1)),
}


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("n", [3, 200])
@pytest.mark.parametrize("op", REDUCTIONS)
def test_reductions(op, n, isa):
    x = seeded(op).normal(size=(50, n)).astype(F)
    graph = Graph()
    y = graph.node(op, graph.feed(x), graph.constant(np.array([1])), keepdims=0)
    graph.output(y, "float32", 1)
    wide = x.astype(np.float64)
    function, scale = REDUCTIONS[op]

    assert max(worst(graph, function(wide, axis=-1), scale(wide), isa)) <= MOST


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("n", [3, 100])
def test_softmax(n, isa):
    x = (seeded("Softmax").normal(size=(50, n)) * 3).astype(F)
    graph = Graph()
    graph.output(graph.node("Softmax", graph.feed(x)), "float32", 2)
    e = np.exp(x.astype(np.float64) - x.max(-1, keepdims=True))

    assert max(worst(graph, e / e.sum(-1, keepdims=True), np.ones(1), isa)) <= MOST


@pytest.mark.parametrize("isa", ISAS)
def test_layer_normalization(isa):
    rng = seeded("LayerNormalization")
    x, vectors = (rng.normal(size=(50, 64)) + 1).astype(F), rng.normal(size=(2, 64)).astype(F)
    graph = Graph()
    inputs = graph.feed(x), *map(graph.constant, vectors)
    graph.output(graph.node("LayerNormalization", *inputs), "float32", 2)
    wide = x.astype(np.float64)
    centred = wide - wide.mean(-1, keepdims=True)
    y = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * vectors[0]
    scale = np.maximum(np.abs(y) + np.abs(vectors[1]), np.abs(vectors[0])) + 1

    assert max(worst(graph, y + vectors[1], scale, isa)) <= MOST


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("op", ["LSTM", "GRU"])
def test_steps_of_recurrent_layers(op, isa):
    rng = seeded(op)
    gates, hidden, steps = (4 if op == "LSTM" else 3), 32, 5
    graph = Graph()
    x = graph.feed(rng.normal(size=(steps, 3, 16)).astype(F))
    sizes = (1, gates * hidden, 16), (1, gates * hidden, hidden), (1, 2 * gates * hidden)
    weights = [graph.constant((rng.normal(size=s) / 6).astype(F)) for s in sizes]
    ys = graph.node(op, x, *weights, n_outputs=gates - 1, hidden_size=hidden)
    graph.output(ys[0], "float32", 4)
    (y,), (other,) = graph.run(isa), graph.onnxruntime()
    of_step = (np.abs(y.astype(np.float64) - other) / ULP).max(axis=(1, 2, 3))

    assert (of_step <= MOST * np.arange(1, steps + 1)).all()
