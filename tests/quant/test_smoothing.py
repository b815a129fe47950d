from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import qtool
from qtool.data import open_samples
from qtool.formats import load
from qtool.quant.smoothing import Channels, Site, chosen_for, predicted, sites, smoothed
from qtool.runtime.ort import OrtSession

D = 16


class Block:
    """A transformer block: attention and an MLP, each behind a normalization."""

    def __init__(self, rng, wide):
        self._rng, self._wide = rng, wide
        self.nodes, self.weights = [], []

    def add(self, op, inputs, output, **attributes):
        self.nodes.append(helper.make_node(op, inputs, [output], **attributes))
        return output

    def weight(self, name, *shape):
        values = (self._rng.standard_normal(shape) / np.sqrt(D)).astype(np.float32)
        self.weights.append(numpy_helper.from_array(values, name))
        return name

    def normalized(self, x, name):
        scale = np.ones(D, np.float32)
        scale[3] = self._wide
        self.weights.append(numpy_helper.from_array(scale, f"{name}_scale"))
        inputs = [x, f"{name}_scale", self.weight(f"{name}_bias", D)]
        return self.add("LayerNormalization", inputs, name, axis=-1)

    def build(self):
        n = self.normalized("x", "n1")
        q, k, v = (self.add("MatMul", [n, self.weight(f"w{o}", D, D)], o) for o in "qkv")
        turned = self.add("Transpose", [k], "kt", perm=[0, 2, 1])
        scores = self.add("MatMul", [q, turned], "scores")
        mixed = self.add("MatMul", [self.add("Softmax", [scores], "p", axis=-1), v], "mixed")
        made = self.add(
            "Add", ["x", self.add("MatMul", [mixed, self.weight("wo", D, D)], "o")], "r"
        )
        hidden = self.add("MatMul", [self.normalized(made, "n2"), self.weight("w1", D, 32)], "h0")
        hidden = self.add("Add", [hidden, self.weight("b1", 32)], "h1")
        hidden = self.add("Relu", [hidden], "h")
        last = self.add("MatMul", [hidden, self.weight("w2", 32, D)], "m")
        self.add("Add", [made, last], "y")
        return helper.make_model(
            helper.make_graph(
                self.nodes, "block",
                [helper.make_tensor_value_info("x", 1, ["n", 6, D])],
                [helper.make_tensor_value_info("y", 1, ["n", 6, D])], self.weights,
            ),
            opset_imports=[helper.make_opsetid("", 21)], ir_version=10,
        )  # fmt: skip


@pytest.fixture
def block(tmp_path, rng):
    def make(wide):
        path = tmp_path / f"{wide}.onnx"
        onnx.save(Block(np.random.default_rng(1), wide).build(), path)
        np.savez(tmp_path / "x.npz", x=rng.standard_normal((32, 6, D)).astype(np.float32))
        model = load(path)
        return model, open_samples(str(tmp_path / "x.npz"), model.inputs())

    return make


def outputs(model, data):
    session = OrtSession(model)
    return np.concatenate([session.run(x.feeds)["y"] for x in data])


def test_the_sites_are_what_only_linear_layers_read(block):
    model, _ = block(1.0)

    assert [site.name for site in sites(model)] == ["n1", "n2", "h"]


def test_smoothing_leaves_the_function_as_it_is(block, rng):
    model, data = block(40.0)
    given = {site.name: rng.uniform(0.2, 5, len(site.weights()[0])) for site in sites(model)}

    made = smoothed(model, given)

    np.testing.assert_allclose(outputs(made, data), outputs(model, data), rtol=1e-3, atol=1e-4)
    assert not any("_smooth" in name for name in model.graph.initializers)


def test_a_wide_channel_costs_less_when_smoothed(block):
    model, data = block(60.0)
    wanted = outputs(model, data)

    errors = [
        np.square(outputs(qtool.quantize(model, data=data, smooth=how), data) - wanted).mean()
        for how in ("none", "auto")
    ]

    assert errors[1] < 0.5 * errors[0]


def site_of(weight):
    class Fixed(Site):
        def weights(self):
            return [weight]

    return Fixed(None, [], [])


def test_none_is_taken_where_channels_are_alike(rng):
    weight = rng.standard_normal((8, 5))
    weight /= np.abs(weight).max(1, keepdims=True)
    alike = Channels(np.full(8, -1.0), np.full(8, 1.0), np.full(8, 0.3))

    assert chosen_for(site_of(weight), alike, levels=255, weight_levels=127) is None


def test_the_strength_chosen_lowers_the_predicted_error(rng):
    weight = rng.standard_normal((8, 5))
    high = np.array([1.0, 1, 1, 50, 1, 1, 1, 1])
    known = Channels(-high, high, high**2 / 9)

    t = chosen_for(site_of(weight), known, levels=255, weight_levels=127).factors

    one, other = (predicted([weight], known, f, 255, 127) for f in (np.ones(8), t))
    assert other < 0.2 * one


def test_products_of_few_bits_are_fitted_layer_after_layer(block):
    model, data = block(1.0)
    wanted = outputs(model, data)

    errors = [
        np.square(outputs(qtool.quantize(model, data=data, **given), data) - wanted).mean()
        for given in ({"rounding": "descent", "weights": "int4"}, {"weights": "int4"})
    ]

    assert errors[1] < 0.95 * errors[0]
