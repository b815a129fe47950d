from __future__ import annotations

import numpy as np
import pytest
from passes.graphs import assert_same_outputs, feeds, parse

from qtool.model import opset
from qtool.passes.opset import raise_opset

ARRAY = np.arange(1, 5)
CASES = {  # name: (opset, graph, weights)
    "clip": (7, "g (float[2,3] x) => (float[2,3] y) { y = Clip<min=-0.5, max=0.5>(x) }", {}),
    "clip without max": (9, "g (float[2,3] x) => (float[2,3] y) { y = Clip<min=0.0>(x) }", {}),
    "pad": (9, "g (float[1,2,3,3] x) => (float[1,2,6,4] y) "
        "{ y = Pad<pads=[0,0,1,0,0,0,2,1], value=2.0>(x) }", {}),
    "slice": (9, "g (float[4,5] x) => (float[2,5] y) { y = Slice<starts=[1], ends=[3]>(x) }", {}),
    "slice axes": (9, "g (float[4,5] x) => (float[4,2] y) "
        "{ y = Slice<axes=[1], starts=[-3], ends=[-1]>(x) }", {}),
    "squeeze": (11, "g (float[1,2,1] x) => (float[2] y) { y = Squeeze<axes=[0,2]>(x) }", {}),
    "squeeze all": (11, "g (float[1,2,1] x) => (float[2] y) { y = Squeeze(x) }", {}),
    "unsqueeze": (11, "g (float[2] x) => (float[1,2,1] y) { y = Unsqueeze<axes=[0,2]>(x) }", {}),
    "reduce sum": (11, "g (float[2,3] x) => (float[2] y) "
        "{ y = ReduceSum<axes=[1], keepdims=0>(x) }", {}),
    "reduce sum all": (11, "g (float[2,3] x) => (float[1,1] y) { y = ReduceSum(x) }", {}),
    "split": (11, "g (float[2,5] x) => (float[2,2] y, float[2,3] z) "
        "{ y, z = Split<axis=1, split=[2,3]>(x) }", {}),
    "topk": (9, "g (float[2,5] x) => (float[2,2] y, int64[2,2] i) { y, i = TopK<k=2>(x) }", {}),
    "softmax last": (11, "g (float[2,3] x) => (float[2,3] y) { y = Softmax(x) }", {}),
    "softmax over all": (11, "g (float[2,3,4] x) => (float[2,3,4] y) { y = Softmax<axis=1>(x) }",
        {}),
    "softmax dynamic": (9, "g (float[N,3,M] x) => (float[N,3,M] y) { y = Softmax<axis=1>(x) }",
        {}),
    "softmax of channels": (9, "g (float[2,3,1,1] x) => (float[2,3,1,1] y) { y = Softmax(x) }",
        {}),
    "log softmax": (11, "g (float[2,3,4] x) => (float[2,3,4] y) { y = LogSoftmax<axis=0>(x) }",
        {}),
    "hardmax": (11, "g (float[2,3,4] x) => (float[2,3,4] y) { y = Hardmax<axis=1>(x) }", {}),
    "upsample attribute": (7, "g (float[1,2,3,3] x) => (float[1,2,6,9] y) "
        '{ y = Upsample<mode="nearest", scales=[1.0,1.0,2.0,3.0]>(x) }', {}),
    "upsample": (9, "g (float[1,2,3,3] x) => (float[1,2,6,6] y) "
        '{ y = Upsample<mode="linear">(x, s) }', {"s": np.array([1, 1, 2, 2.0])}),
    "upsample by computed scales": (9, "g (float[1,2,3,3] x, float[4] z) => (float[1,2,H,W] y) "
        '{ n = Mul(z, o) s = Add(n, t) y = Upsample<mode="nearest">(x, s) }',
        {"o": np.zeros(4), "t": np.array([1, 1, 2, 2.0])}),
    "resize up": (10, "g (float[1,2,3,3] x) => (float[1,2,6,6] y) "
        '{ y = Resize<mode="nearest">(x, s) }', {"s": np.array([1, 1, 2, 2.0])}),
    "resize down": (10, "g (float[1,2,8,8] x) => (float[1,2,3,3] y) "
        '{ y = Resize<mode="nearest">(x, s) }', {"s": np.array([1, 1, 0.4, 0.4])}),
    "resize linear": (10, "g (float[1,2,3,3] x) => (float[1,2,6,6] y) "
        '{ y = Resize<mode="linear">(x, s) }', {"s": np.array([1, 1, 2, 2.0])}),
    "batch norm": (7, "g (float[2,4,3] x) => (float[2,4,3] y) "
        "{ y = BatchNormalization<spatial=1>(x, a, b, b, a) }",
        {"a": ARRAY / 2.0, "b": ARRAY / 3.0}),
    "dropout": (7, "g (float[2,4] x) => (float[2,4] y) { y = Dropout<ratio=0.3>(x) }", {}),
    "prelu": (7, "g (float[2,4] x) => (float[2,4] y) { y = PRelu(x, a) }", {"a": ARRAY / 2.0}),
    "gemm": (7, "g (float[2,4] x) => (float[2,1] y) { y = Gemm(x, a, b) }",
        {"a": ARRAY.reshape(4, 1) / 2.0, "b": np.ones(1)}),
    "scatter": (9, "g (float[2,4] x) => (float[2,4] y) { y = Scatter<axis=1>(x, i, u) }",
        {"i": np.array([[1], [2]]), "u": np.array([[5.0], [6.0]])}),
    "average pool": (7, "g (float[1,2,4,4] x) => (float[1,2,3,3] y) "
        "{ y = AveragePool<kernel_shape=[2,2]>(x) }", {}),
    "max pool": (7, "g (float[1,2,4,4] x) => (float[1,2,2,2] y) "
        "{ y = MaxPool<kernel_shape=[2,2], strides=[2,2]>(x) }", {}),
    "lstm": (7, "g (float[3,1,2] x) => (float[3,1,1,2] y) { y = LSTM<hidden_size=2>(x, w, r) }",
        {"w": np.ones((1, 8, 2)) / 3, "r": np.ones((1, 8, 2)) / 5}),
    "add": (7, "g (float[2,4] x) => (float[2,4] y) { y = Add(x, a) }", {"a": ARRAY / 2.0}),
}  # fmt: skip
NEWER = {
    "reduce mean": (13, "g (float[2,3] x) => (float[2] y) "
        "{ y = ReduceMean<axes=[1], keepdims=0>(x) }", {}),
    "split in equal parts": (13, "g (float[2,4] x) => (float[2,2] y, float[2,2] z) "
        "{ y, z = Split<axis=1>(x) }", {}),
    "pad": (13, "g (float[1,3] x) => (float[1,6] y) { y = Pad(x, p) }",
        {"p": np.array([0, 1, 0, 2])}),
    "resize": (13, "g (float[1,2,3,3] x) => (float[1,2,6,6] y) "
        '{ y = Resize<mode="nearest">(x, , s) }', {"s": np.array([1, 1, 2, 2.0])}),
    "grid sample": (16, "g (float[1,2,3,3] x, float[1,2,2,2] g) => (float[1,2,2,2] y) "
        '{ y = GridSample<mode="bilinear">(x, g) }', {}),
    "roi align": (13, "g (float[1,2,8,8] x, float[1,4] r) => (float[1,2,2,2] y) "
        "{ y = RoiAlign<output_height=2, output_width=2>(x, r, i) }", {"i": np.array([0])}),
    "batch norm": (13, "g (float[2,4,3] x) => (float[2,4,3] y) "
        "{ y = BatchNormalization(x, a, b, b, a) }", {"a": ARRAY / 2.0, "b": ARRAY / 3.0}),
    "group norm": (18, "g (float[2,4,3] x) => (float[2,4,3] y) "
        "{ y = GroupNormalization<num_groups=2>(x, s, b) }",
        {"s": np.array([2.0, 3.0]), "b": np.array([0.5, 0.25])}),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_an_old_form_computes_the_same_at_opset_13(name, rng):
    version, graph, weights = CASES[name]
    old = parse(graph, opset=version, **weights)

    new = raise_opset(old, 13)

    assert opset(new) == 13
    assert_same_outputs(old, new, feeds(old, rng, 3))


@pytest.mark.parametrize("name", NEWER)
def test_an_old_form_computes_the_same_at_opset_21(name, rng):
    version, graph, weights = NEWER[name]
    old = parse(graph, opset=version, **weights)

    new = raise_opset(old, 21)

    assert opset(new) == 21
    assert_same_outputs(old, new, feeds(old, rng))
