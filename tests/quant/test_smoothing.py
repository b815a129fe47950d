from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import qtool
from qtool.data import open_samples
from qtool.formats import load, save
from qtool.quant.smoothing import KEY, aligned, sites, smoothed
from qtool.quant.smoothing_strength import Precision, chosen_for, predicted
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
    def make(wide, samples=32):
        path = tmp_path / f"{wide}.onnx"
        onnx.save(Block(np.random.default_rng(1), wide).build(), path)
        np.savez(tmp_path / "x.npz", x=rng.standard_normal((samples, 6, D)).astype(np.float32))
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


def rows_of(rng, size, n=64):
    """Samples of one row each, of channels of these sizes."""
    return list((rng.standard_normal((n, len(size))) * size)[:, None])


def test_none_is_taken_where_channels_are_alike(rng):
    weight = rng.standard_normal((8, 5))
    weight /= np.abs(weight).max(1, keepdims=True)

    assert chosen_for([weight], rows_of(rng, np.ones(8)), Precision()) is None


@pytest.mark.parametrize("per_channel", [True, False])
def test_the_strength_chosen_lowers_the_predicted_error(rng, per_channel):
    weight = rng.standard_normal((8, 5))
    rows = rows_of(rng, np.array([1.0, 1, 1, 50, 1, 1, 1, 1]))
    precision = Precision(per_channel=per_channel)

    t = chosen_for([weight], rows, precision).factors

    x = np.concatenate(rows)
    one, other = (predicted([weight], x, x, f, precision) for f in (np.ones(8), t))
    assert other < 0.2 * one


def test_what_few_samples_have_is_not_widened(rng):
    weight = rng.standard_normal((8, 5))
    rows = rows_of(rng, np.array([1.0, 1, 1, 50, 1, 1, 1e-3, 1]))

    t = chosen_for([weight], rows, Precision()).factors

    assert t.min() == 1.0
    assert t[6] == 1.0
    assert t[3] > 2.0


def test_a_gain_on_one_half_of_the_samples_only_is_none(rng):
    weight = rng.standard_normal((8, 5))
    size = np.array([1.0, 1, 1, 50, 1, 1, 1, 1])
    rows = [row if i % 2 else row / size for i, row in enumerate(rows_of(rng, size))]

    assert chosen_for([weight], rows, Precision()) is None


def test_the_prediction_is_the_error_of_rounded_products(rng):
    weight, rows = rng.standard_normal((64, 256)), rng.standard_normal((256, 64))
    t = rng.uniform(1, 3, 64)
    scaled, x = weight * t[:, None], rows / t
    step = (x.max() - x.min()) / 255
    half = np.abs(scaled).max(0) / 127
    made = np.rint(x / step) * step @ (np.rint(scaled / half) * half)

    found = predicted([weight], rows, rows, t, Precision())

    assert found == pytest.approx(np.square(made - rows @ weight).sum(1).mean(), rel=0.15)


def test_with_one_scale_per_weight_rows_of_weights_do_not_shrink(block):
    model, data = block(60.0)

    found = qtool.quantize(model, data=data, per_channel=False).history[-1].decided["smooth"]

    assert {site.name for site in sites(model) if site.in_weights} == {"h"}
    assert set(found) <= {"n1", "n2"}


def test_products_of_few_bits_are_fitted_layer_after_layer(block):
    model, data = block(1.0, samples=128)
    wanted = outputs(model, data)

    errors = [
        np.square(outputs(qtool.quantize(model, data=data, **given), data) - wanted).mean()
        for given in ({"rounding": "descent", "weights": "int4"}, {"weights": "int4"})
    ]

    assert errors[1] < errors[0]


@pytest.mark.parametrize("ending", ["onnx", "qtm"])
def test_layers_of_a_smoothed_model_are_compared_with_the_smoothed_reference(
    block, tmp_path, ending
):
    model, data = block(60.0)
    save(qtool.quantize(model, data=data), tmp_path / f"q.{ending}")

    found = qtool.verify(load(tmp_path / f"q.{ending}"), reference=model, data=data)

    known = [layer.sqnr for layer in found.layers if layer.sqnr is not None]
    assert known
    assert min(known) > 15


def test_a_reference_is_smoothed_by_what_the_model_records(block):
    model, data = block(60.0)
    made = smoothed(model, {"n1": np.exp2(np.arange(D) / 16), "h": np.ones(32)})

    same = aligned(model, made)

    for name in ("n1", "y"):
        want, got = (OrtSession(m, outputs=[name]).run(data[0].feeds)[name] for m in (made, same))
        np.testing.assert_array_equal(want, got)
    assert aligned(model, model) is model


@pytest.mark.parametrize("record", ["", "[]", '{"n1":[1]}', '{"none":[1]}', '{"n1":"b"}'])
def test_a_record_that_does_not_fit_is_mentioned_and_ignored(block, record, caplog):
    model, _ = block(1.0)
    changed = model.copy()
    changed.ir.metadata_props[KEY] = record

    assert aligned(model, changed) is model
    assert "the reference has not the tensors" in caplog.text


def test_threads_do_not_change_a_byte(block, tmp_path):
    model, data = block(60.0)
    for threads in (1, 2):
        save(qtool.quantize(model, data=data, threads=threads), tmp_path / f"{threads}.onnx")

    assert (tmp_path / "1.onnx").read_bytes() == (tmp_path / "2.onnx").read_bytes()
