from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import onnx_ir as ir
import pytest
from onnx import helper, numpy_helper

from qtool.model import Model
from qtool.runtime.ort import OrtSession
from qtool.stages import _frontier
from qtool.stages._frontier import Frontier, walk


@pytest.fixture
def branches(rng):
    """x -> a -> b, c; b + c -> d -> If(d or a) -> y."""

    def conv(source, name):
        return helper.make_node("Conv", [source, f"w{name}"], [name])

    def branch(name, value):
        made = [helper.make_tensor_value_info(f"{name}y", 1, None)]
        return helper.make_graph([helper.make_node("Neg", [value], [f"{name}y"])], name, [], made)

    nodes = [
        conv("x", "a"), conv("a", "b"), conv("a", "c"), helper.make_node("Add", ["b", "c"], ["d"]),
        helper.make_node("If", ["yes"], ["e"], then_branch=branch("t", "a"),
                         else_branch=branch("f", "d")),
        helper.make_node("Add", ["e", "d"], ["y"]),
    ]  # fmt: skip
    weights = [numpy_helper.from_array(rng.random((4, 4, 1, 1), np.float32), f"w{n}")
               for n in "abc"]  # fmt: skip
    weights.append(numpy_helper.from_array(np.array(True), "yes"))
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", 1, ["n", 4, 5, 5])],
        [helper.make_tensor_value_info("y", 1, ["n", 4, 5, 5])], weights,
    )  # fmt: skip
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    feeds = [{"x": rng.random((1, 4, 5, 5), np.float32)} for _ in range(5)]
    samples = [SimpleNamespace(feeds=one, where=f"sample {i}") for i, one in enumerate(feeds)]
    return Model(ir.from_proto(made)), samples


def loads(samples):
    return [lambda sample=sample: sample for sample in samples]


def passed(frontier, name, past):
    """The tensor of all samples, which then move past another."""
    found = {}
    walk([frontier.to(name, past=past)], lambda i, outputs: found.update({i: outputs[0]}),
         among=range(len(frontier)), threads=2)  # fmt: skip
    return [found[i] for i in range(len(frontier))]


@pytest.mark.parametrize("budget", [0, 3000, 1 << 20])
def test_tensors_in_turn_are_those_of_the_whole_model(branches, monkeypatch, budget):
    model, samples = branches
    monkeypatch.setattr(_frontier, "BYTES", budget)
    frontier = Frontier(model, loads(samples))

    for name, past in (("a", "x"), ("a", "a"), ("c", "a"), ("b", "b"), ("d", "c"), ("y", "d")):
        made = passed(frontier, name, past)

        whole = OrtSession(model, outputs=[name])
        for one, sample in zip(made, samples, strict=True):
            np.testing.assert_allclose(one, whole.run(sample.feeds)[name], rtol=1e-5)


def test_only_what_is_still_needed_is_kept(branches):
    model, samples = branches
    frontier = Frontier(model, loads(samples))

    passed(frontier, "d", "d")

    assert [sorted(frontier.feeds(i)) for i in range(5)] == [["a", "d"]] * 5


def test_weights_behind_may_change(branches):
    model, samples = branches
    frontier = Frontier(model, loads(samples))
    (before,) = {float(one.sum()) for one in passed(frontier, "b", "a")[:1]}
    weight = model.graph.initializers["wb"]

    weight.const_value = ir.Tensor(weight.const_value.numpy() * 2, name="wb")

    np.testing.assert_allclose(passed(frontier, "b", "a")[0].sum(), 2 * before, rtol=1e-5)


def test_some_of_the_samples_stay_where_they_are(branches):
    model, samples = branches
    frontier = Frontier(model, loads(samples))

    walk([frontier.to("a", past="a")], lambda *_: None, among=range(0, 5, 2), threads=1)

    assert [sorted(frontier.feeds(i)) for i in range(5)] == [["x"]] * 5
