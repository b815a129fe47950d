"""Whole networks in every mode of quantize: the runtime's results are onnxruntime's."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from runtime.graphs import Graph

from qtool.data import open_samples
from qtool.runtime import Session
from qtool.runtime.ort import OrtSession
from qtool.stages.quantize import quantize

F, I = np.float32, np.int64  # noqa: E741
MODES = {
    "static": {"mode": "static"},
    "static int8": {"mode": "static", "activations": "int8"},
    "static uint16": {"mode": "static", "activations": "uint16"},
    "static int16": {"mode": "static", "activations": "int16"},
    "static asymmetric": {"mode": "static", "weight_symmetric": False, "weights": "uint8"},
    "static integer outputs": {"mode": "static", "integer_outputs": True},
    "dynamic": {"mode": "dynamic"},
    "weight-only": {"mode": "weight-only"},
    "weight-only per tensor": {"mode": "weight-only", "per_channel": False},
    "weight-only asymmetric": {"mode": "weight-only", "weight_symmetric": False},
    "weight-only int4": {"mode": "weight-only", "weights": "int4"},
    "weight-only uint4": {"mode": "weight-only", "weights": "uint4", "weight_symmetric": False},
    "weight-only int4 per tensor": {
        "mode": "weight-only",
        "weights": "int4",
        "block_size": 0,
        "per_channel": False,
    },
    "weight-only int4 per channel": {"mode": "weight-only", "weights": "int4", "block_size": 0},
}


def weights(graph: Graph, rng, *shape: int) -> str:
    return graph.constant((rng.normal(size=shape) / np.sqrt(shape[-1])).astype(F))


def transformer(graph: Graph, rng) -> str:
    """Return two tokens' worth of attention over an embedding, then a perceptron."""
    width, heads = 64, 4
    tokens = graph.feed(rng.integers(0, 50, (2, 7)).astype(I), ["batch", "length"])
    x = graph.node("Gather", weights(graph, rng, 50, width), tokens)

    def linear(x: str, n_in: int, n_out: int) -> str:
        y = graph.node("MatMul", x, weights(graph, rng, n_in, n_out))
        return graph.node("Add", y, weights(graph, rng, n_out))

    def split(x: str, perm: list[int]) -> str:
        shape = graph.constant(np.array([0, 0, heads, width // heads], I))
        return graph.node("Transpose", graph.node("Reshape", x, shape), perm=perm)

    q, k, v = (linear(x, width, width) for _ in range(3))
    scores = graph.node("MatMul", split(q, [0, 2, 1, 3]), split(k, [0, 2, 3, 1]))
    shares = graph.node("Softmax", graph.node("Div", scores, graph.constant(F(4))))
    mixed = graph.node("MatMul", shares, split(v, [0, 2, 1, 3]))
    joined = graph.node("Transpose", mixed, perm=[0, 2, 1, 3])
    flat = graph.node("Reshape", joined, graph.constant(np.array([0, 0, width], I)))
    x = graph.node("Add", x, linear(flat, width, width))
    x = graph.node("LayerNormalization", x, weights(graph, rng, width), weights(graph, rng, width))
    return linear(graph.node("Gelu", linear(x, width, 2 * width)), 2 * width, width)


def recurrent(graph: Graph, rng) -> str:
    """Return a convolution, an LSTM and a GRU over time."""
    x = graph.feed(rng.normal(size=(1, 8, 12)).astype(F), [1, 8, "time"])
    x = graph.node("Conv", x, weights(graph, rng, 32, 8, 3), pads=[1, 1])
    x = graph.node("Transpose", graph.node("Relu", x), perm=[2, 0, 1])
    for op, gates in (("LSTM", 4), ("GRU", 3)):
        tensors = [weights(graph, rng, 2, gates * 16, 32), weights(graph, rng, 2, gates * 16, 16)]
        bias = weights(graph, rng, 2, 2 * gates * 16)
        y = graph.node(op, x, *tensors, bias, hidden_size=16, direction="bidirectional")
        y = graph.node("Transpose", y, perm=[0, 2, 1, 3])
        x = graph.node("Reshape", y, graph.constant(np.array([0, 0, -1], I)))
    return x


def image(graph: Graph, rng) -> str:
    """Return a small segmentation network: down, up, and what it saw before."""
    x = graph.feed(rng.normal(size=(1, 3, 16, 16)).astype(F), ["batch", 3, 16, 16])
    x = graph.node(
        "HardSwish", graph.node("Conv", x, weights(graph, rng, 16, 3, 3, 3), pads=[1] * 4)
    )
    y = graph.node(
        "Conv", x, weights(graph, rng, 16, 1, 3, 3), pads=[1] * 4, group=16, strides=[2, 2]
    )
    y = graph.node("Conv", graph.node("Relu", y), weights(graph, rng, 24, 16, 1, 1))
    gate = graph.node("HardSigmoid", graph.node("GlobalAveragePool", y))
    y = graph.node("Mul", y, gate)
    y = graph.node("ConvTranspose", y, weights(graph, rng, 24, 16, 2, 2), strides=[2, 2])
    y = graph.node("Concat", graph.node("Relu", y), x, axis=1)
    return graph.node("Sigmoid", graph.node("Conv", y, weights(graph, rng, 2, 32, 1, 1)))


NETWORKS = {"transformer": (transformer, 3), "recurrent": (recurrent, 3), "image": (image, 4)}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("network", NETWORKS)
def test_networks_in_every_mode(network, mode, rng, tmp_path):
    build, rank = NETWORKS[network]
    quantized, feeds = _quantized(build, rank, MODES[mode], rng, tmp_path)
    (y,) = Session(quantized).run(None, feeds)
    (expected,) = OrtSession(quantized, optimize=False).run(feeds).values()
    # A step of an activation that is rounded the other way moves a result by some of its own.
    steps = 2e-2 if "static" in mode else 1e-5

    np.testing.assert_allclose(y, expected, rtol=0, atol=steps * max(np.abs(expected).max(), 1))


@pytest.mark.parametrize("network", NETWORKS)
def test_inputs_of_other_shapes(network, rng, tmp_path):
    build, rank = NETWORKS[network]
    quantized, feeds = _quantized(build, rank, MODES["dynamic"], rng, tmp_path)
    session = Session(quantized)
    for times in (2, 3, 2):
        axis = 2 if network == "recurrent" else 0
        more = {name: np.concatenate([x] * times, axis) for name, x in feeds.items()}
        (y,) = session.run(None, more)
        (expected,) = OrtSession(quantized, optimize=False).run(more).values()

        np.testing.assert_allclose(y, expected, rtol=0, atol=1e-5)


def _quantized(build: Callable, rank: int, options: dict, rng, tmp_path):
    graph = Graph()
    graph.output(build(graph, rng), "float32", rank)
    model = graph.model()
    path = tmp_path / "samples.npz"
    np.savez(path, **{name: x[None] if rank == 3 else x for name, x in graph.feeds.items()})
    static = options["mode"] == "static"
    data = open_samples(str(path), model.inputs()) if static else None
    return quantize(model, data=data, check=False, **options), graph.feeds
