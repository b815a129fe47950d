"""ConvTranspose: integers equal to the reference bit for bit, floats near onnxruntime."""

from __future__ import annotations

import numpy as np
import pytest
import reference
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from runtime.graphs import Graph, integers, per_tensor
from runtime.test_floats import near, values
from runtime.test_wide_products import activations, weights

from qtool.qparams import QParams

F = np.float32


@st.composite
def transposed(draw, dims: int):
    """Draw the shapes and attributes of a transposed convolution."""
    group = draw(st.sampled_from([1, 1, 2, 3] if dims < 3 else [1]))
    c_in, c_out = (group * draw(st.integers(1, 5)) for _ in range(2))
    kernel = [draw(st.integers(1, 4)) for _ in range(dims)]
    dilations = [draw(st.integers(1, 2)) for _ in range(dims)]
    strides = [draw(st.integers(1, 3)) for _ in range(dims)]
    reach = [d * (k - 1) for d, k in zip(dilations, kernel, strict=True)]
    pads = [draw(st.integers(0, r)) for r in (*reach, *reach)]
    more = [draw(st.integers(0, s - 1)) for s in strides]
    size = [draw(st.integers(1, 5)) for _ in range(dims)]
    out = [
        s * (i - 1) + m + r + 1 - pads[a] - pads[a + dims]
        for a, (s, i, m, r) in enumerate(zip(strides, size, more, reach, strict=True))
    ]
    assume(min(out) > 0)
    shapes = (draw(st.integers(1, 2)), c_in, *size), (c_in, c_out // group, *kernel)
    return shapes, {
        "group": group, "strides": strides, "pads": pads, "dilations": dilations,
        "output_padding": more,
    }  # fmt: skip


@pytest.mark.parametrize("dims", [1, 2, 3])
@settings(max_examples=60)
@given(data=st.data())
def test_floats_are_near_onnxruntime(dims, data):
    (shape, w_shape), attributes = data.draw(transposed(dims))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    graph = Graph()
    inputs = [graph.feed(values(rng, *shape, scale=1)), graph.constant(values(rng, *w_shape))]
    if data.draw(st.booleans()):
        inputs.append(graph.constant(values(rng, w_shape[1] * attributes["group"])))
    graph.output(graph.node("ConvTranspose", *inputs, **attributes), "float32", len(shape))

    near(graph)


@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER", "VALID"])
@pytest.mark.parametrize("strides", [[1, 2], [3, 2]])
def test_auto_pad(auto_pad, strides, rng):
    graph = Graph()
    x, w = graph.feed(values(rng, 1, 2, 4, 5)), graph.constant(values(rng, 2, 3, 3, 4))
    y = graph.node("ConvTranspose", x, w, auto_pad=auto_pad, strides=strides)
    graph.output(y, "float32", 4)

    near(graph)


@pytest.mark.parametrize("dims", [1, 2])
@settings(max_examples=60)
@given(data=st.data())
def test_integers_equal_the_reference(dims, data):
    (shape, w_shape), attributes = data.draw(transposed(dims))
    del attributes["output_padding"]
    attributes["dilations"] = [1] * dims
    reach = [k - 1 for k in w_shape[2:]]
    pads = attributes["pads"] = [
        min(p, r) for p, r in zip(attributes["pads"], reach * 2, strict=True)
    ]
    for a, (s, i, r) in enumerate(zip(attributes["strides"], shape[2:], reach, strict=True)):
        assume(s * (i - 1) + r + 1 - pads[a] - pads[a + dims] > 0)
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    x_p, y_p = data.draw(activations()), data.draw(activations())
    x = integers(rng, shape, x_p)
    if data.draw(st.booleans()):
        w, w_p = data.draw(weights(rng, w_shape, 1, "int8"))
        w_p = QParams(np.asarray(w_p.scale).max(), np.array(3, np.int32), "int8")
    else:
        w = rng.integers(-127, 128, w_shape).astype(np.int8)
        w_p = QParams(np.array(0.01, F), np.array(0, np.int32), "int8")
    b = rng.integers(-5000, 5000, w_shape[1] * attributes["group"]).astype(np.int32)
    b_p = QParams(x_p.scale * w_p.scale, np.array(0, np.int32), "int32")
    graph = Graph()
    inputs = graph.real(x, x_p), graph.fixed(w, w_p), graph.fixed(b, b_p)
    y = graph.quantize(graph.node("ConvTranspose", *inputs, **attributes), y_p)
    graph.output(y, y_p.dtype, len(shape))
    del attributes["dilations"]
    expected = reference.conv_transpose(x, w, b, x_p, w_p, y_p, **attributes)

    np.testing.assert_array_equal(graph.run()[0], expected)


def test_scales_per_channel(rng):
    x_p, y_p = per_tensor(0.02, 100), per_tensor(0.5, 120)
    x, w = integers(rng, (1, 6, 4, 5), x_p), rng.integers(-127, 128, (6, 4, 2, 2)).astype(np.int8)
    w_p = QParams(rng.uniform(1e-3, 1e-2, 4).astype(F), np.zeros(4, np.int32), "int8", 1)
    graph, by_channel = Graph(), []
    y = graph.node("ConvTranspose", graph.real(x, x_p), graph.fixed(w, w_p), strides=[2, 2])
    graph.output(graph.quantize(y, y_p), "uint8", 4)
    for c in range(4):
        one = QParams(w_p.scale[c], np.array(0, np.int32), "int8")
        part = w[:, c : c + 1]
        by_channel.append(reference.conv_transpose(x, part, None, x_p, one, y_p, strides=[2, 2]))

    np.testing.assert_array_equal(graph.run()[0], np.concatenate(by_channel, 1))
