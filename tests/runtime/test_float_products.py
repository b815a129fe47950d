"""Float products, convolutions and recurrent layers: near onnxruntime, with any kind of weights."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from runtime.graphs import ISAS, Graph
from runtime.test_floats import near, values
from runtime.test_linear import convolutions

F, I = np.float32, np.int64  # noqa: E741
ISAS = ISAS[:3]
LIMITS = {"int8": (-128, 127), "uint8": (0, 255), "int4": (-8, 7), "uint4": (0, 15)}


def kept(graph: Graph, rng, shape, dtype: str, axis: int | None, *, block: int = 0, zero=False):
    """Return the name of a dequantized constant weight."""
    low, high = LIMITS[dtype]
    storage = getattr(ml_dtypes, dtype) if "4" in dtype else np.dtype(dtype)
    q = rng.integers(low, high + 1, shape).astype(storage)
    size = () if axis is None else (shape[axis],)
    if block:
        size = tuple(-(-n // block) if i == axis else n for i, n in enumerate(shape))
    scale = rng.uniform(1e-3, 2e-2, size).astype(F)
    inputs = [graph.constant(q), graph.constant(scale)]
    if zero:
        inputs.append(graph.constant(rng.integers(low, high + 1, size).astype(storage)))
    attributes = {} if axis is None else {"axis": axis}
    if block:
        attributes["block_size"] = block
    return graph.node("DequantizeLinear", *inputs, **attributes)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(
    "shapes",
    [((5, 7), (7, 3)), ((1, 300), (300, 70)), ((2, 3, 13, 65), (65, 33)), ((7,), (7, 4)),
     ((2, 3, 4, 5), (3, 5, 6)), ((4, 7), (7,)), ((7,), (7,)), ((2, 1, 3, 4), (5, 4, 40)),
     ((70, 129), (129, 1))],
)  # fmt: skip
@pytest.mark.parametrize("constant", [False, True])
def test_matmul(isa, shapes, constant, rng):
    a, b = (values(rng, *shape, scale=1) for shape in shapes)
    graph = Graph()
    y = graph.node("MatMul", graph.feed(a), graph.constant(b) if constant else graph.feed(b))
    graph.output(y, "float32", (a @ b).ndim)

    near(graph, isa=isa)


@pytest.mark.parametrize("trans_a", [0, 1])
@pytest.mark.parametrize("trans_b", [0, 1])
@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 1.0), (0.5, -2.0)])
@pytest.mark.parametrize("c", [None, (), (6,), (1, 6), (5, 1), (5, 6)])
def test_gemm(trans_a, trans_b, alpha, beta, c, rng):
    graph = Graph()
    a = values(rng, 9, 5) if trans_a else values(rng, 5, 9)
    b = values(rng, 6, 9) if trans_b else values(rng, 9, 6)
    inputs = [graph.feed(a), graph.constant(b)]
    inputs += [] if c is None else [graph.constant(values(rng, *c))]
    y = graph.node("Gemm", *inputs, transA=trans_a, transB=trans_b, alpha=alpha, beta=beta)
    graph.output(y, "float32", 2)

    near(graph)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dims", [1, 2, 3])
@settings(max_examples=30)
@given(data=st.data())
def test_conv(isa, dims, data):
    shape, c_out, kernel, attributes = data.draw(convolutions(dims))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    graph = Graph()
    w = values(rng, c_out, shape[1] // attributes["group"], *kernel, scale=1)
    inputs = [graph.feed(values(rng, *shape, scale=1)), graph.constant(w)]
    if data.draw(st.booleans()):
        inputs.append(graph.constant(values(rng, c_out)))
    graph.output(graph.node("Conv", *inputs, **attributes), "float32", len(shape))

    near(graph, isa=isa)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", LIMITS)
@pytest.mark.parametrize("block", [0, 32, 16])
@pytest.mark.parametrize("m", [1, 50])
def test_matmul_with_weights_that_stay_integers(isa, dtype, block, m, rng):
    graph = Graph(21)
    w = kept(graph, rng, (211, 70), dtype, 0 if block else 1, block=block, zero=True)
    graph.output(graph.node("MatMul", graph.feed(values(rng, m, 211)), w), "float32", 2)

    near(graph, isa=isa)


def test_weights_that_stay_integers_give_the_bits_of_floats(rng):
    x, q = values(rng, 13, 300), rng.integers(-127, 128, (300, 40)).astype(np.int8)
    scale = rng.uniform(1e-3, 1e-2, 40).astype(F)
    kept_graph, float_graph = Graph(), Graph()
    inputs = kept_graph.constant(q), kept_graph.constant(scale)
    w = kept_graph.node("DequantizeLinear", *inputs, axis=1)
    for graph, b in ((kept_graph, w), (float_graph, float_graph.constant(q * scale))):
        graph.output(graph.node("MatMul", graph.feed(x), b), "float32", 2)

    np.testing.assert_array_equal(kept_graph.run()[0], float_graph.run()[0])


@pytest.mark.parametrize("trans_b", [0, 1])
@pytest.mark.parametrize("axis", [None, 0, 1])
def test_gemm_with_weights_that_stay_integers(trans_b, axis, rng):
    graph = Graph(21)
    w = kept(graph, rng, (65, 70), "int8", axis)
    x = graph.feed(values(rng, 3, 70 if trans_b else 65))
    bias = graph.constant(values(rng, 65 if trans_b else 70))
    graph.output(graph.node("Gemm", x, w, bias, transB=trans_b), "float32", 2)

    near(graph)


@pytest.mark.parametrize("dtype", LIMITS)
@pytest.mark.parametrize("group", [1, 2, 16])
@pytest.mark.parametrize("block", [0, 8])
def test_conv_with_weights_that_stay_integers(dtype, group, block, rng):
    graph = Graph(21)
    axis = 1 if block else 0
    w = kept(graph, rng, (64, 16 // group, 3, 5), dtype, axis, block=block, zero=True)
    x = graph.feed(values(rng, 2, 16, 6, 7))
    graph.output(graph.node("Conv", x, w, pads=[1, 2, 1, 2], group=group), "float32", 4)

    near(graph)


@pytest.mark.parametrize("threads", [1, 2])
def test_any_number_of_threads_gives_the_same_bits(threads, rng):
    graph = Graph()
    x, w = graph.feed(values(rng, 2, 8, 40, 40)), graph.constant(values(rng, 16, 8, 3, 3))
    y = graph.node("Conv", x, w, pads=[1] * 4)
    graph.output(graph.node("MatMul", y, graph.constant(values(rng, 40, 300))), "float32", 4)

    np.testing.assert_array_equal(graph.run(threads=threads)[0], graph.run()[0])


def recurrent(
    graph: Graph, rng, op: str, *, d: int, layout=0, hidden=9, width=5, keep=False,
    lengths=False, states=True, peepholes=False, batch=3, steps=6, **attributes,
):  # fmt: skip
    """Add a recurrent node and its outputs."""
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[op]
    n_states = 2 if op == "LSTM" else 1
    x = values(rng, *((batch, steps) if layout else (steps, batch)), width, scale=1)
    if keep:
        w = [kept(graph, rng, (d, gates * hidden, n), "int8", 1) for n in (width, hidden)]
    else:
        w = [graph.constant(values(rng, d, gates * hidden, n, scale=0.4)) for n in (width, hidden)]
    inputs = [graph.feed(x), *w, graph.constant(values(rng, d, 2 * gates * hidden, scale=0.4)), ""]
    if lengths:
        inputs[-1] = graph.feed(rng.integers(1, steps + 1, batch).astype(np.int32))
    shape = (batch, d, hidden) if layout else (d, batch, hidden)
    if states:
        inputs += [graph.feed(values(rng, *shape, scale=0.5)) for _ in range(n_states)]
    if peepholes:
        inputs.append(graph.constant(values(rng, d, 3 * hidden, scale=0.4)))
    ys = graph.node(
        op, *inputs, n_outputs=1 + n_states, hidden_size=hidden, layout=layout, **attributes
    )
    for y, rank in zip(ys, (4, 3, 3), strict=False):
        graph.output(y, "float32", rank)


DIRECTIONS = {"forward": 1, "reverse": 1, "bidirectional": 2}


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("op", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("lengths", [False, True])
@pytest.mark.parametrize("states", [False, True])
def test_recurrent_layers(isa, op, direction, lengths, states, rng):
    graph = Graph()
    d = DIRECTIONS[direction]
    recurrent(graph, rng, op, d=d, direction=direction, lengths=lengths, states=states)

    near(graph, isa=isa, rtol=4e-6)


@pytest.mark.parametrize("op", ["LSTM", "GRU"])
@pytest.mark.parametrize("size", [(1, 1, 1), (2, 33, 70), (1, 128, 128)])
def test_sizes_of_recurrent_layers(op, size, rng):
    graph = Graph()
    batch, hidden, width = size
    recurrent(graph, rng, op, d=2, direction="bidirectional", hidden=hidden, width=width,
              batch=batch)  # fmt: skip

    near(graph, rtol=8e-6)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_gru_that_is_linear_before_reset(direction, rng):
    graph = Graph()
    d = DIRECTIONS[direction]
    recurrent(graph, rng, "GRU", d=d, direction=direction, linear_before_reset=1)

    near(graph, rtol=4e-6)


def test_lstm_with_peepholes(rng):
    graph = Graph()
    recurrent(graph, rng, "LSTM", d=2, direction="bidirectional", peepholes=True)

    near(graph, rtol=4e-6)


@pytest.mark.parametrize("op", ["LSTM", "GRU", "RNN"])
def test_clipped_gates(op, rng):
    graph = Graph()
    recurrent(graph, rng, op, d=1, clip=0.3)

    near(graph, rtol=4e-6)


@pytest.mark.parametrize("op", ["LSTM", "GRU"])
def test_other_activations(op, rng):
    graph = Graph()
    names = ["HardSigmoid", "Relu", "Softsign"][: 3 if op == "LSTM" else 2]
    recurrent(graph, rng, op, d=1, activations=names, activation_alpha=[0.3], activation_beta=[0.4])

    near(graph, rtol=4e-6)


@pytest.mark.parametrize("op", ["LSTM", "GRU", "RNN"])
def test_recurrent_weights_that_stay_integers(op, rng):
    graph = Graph()
    recurrent(graph, rng, op, d=2, direction="bidirectional", keep=True, hidden=40, width=36)

    near(graph, rtol=4e-5)  # large weights: what differs in one step grows in the next


@pytest.mark.parametrize("op", ["LSTM", "GRU"])
def test_batches_first(op):
    results = []
    for layout in (0, 1):
        graph = Graph()
        recurrent(graph, np.random.default_rng(0), op, d=1, states=False, layout=layout, batch=6)
        if layout:
            graph.feeds["in0"] = np.ascontiguousarray(results[0][0].swapaxes(0, 1))
        results.append((graph.feeds["in0"], graph.run()))
    (y, *states), (swapped, *others) = results[0][1], results[1][1]

    np.testing.assert_array_equal(swapped, y.transpose(2, 0, 1, 3))
    for state, other in zip(states, others, strict=True):
        np.testing.assert_array_equal(other, state.swapaxes(0, 1))
