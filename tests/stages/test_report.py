from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from quant.graphs import conv_net, model_of

from qtool.data import open_samples
from qtool.errors import DataError
from qtool.stages._json import finite
from qtool.stages.calibrate import calibrate
from qtool.stages.quantize import quantize
from qtool.stages.report import report


@pytest.fixture
def net(rng):
    return conv_net(rng)


@pytest.fixture
def data(tmp_path, rng):
    """Opens twelve labelled images for a model."""
    x = rng.normal(size=(12, 3, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "d.npz", x=x, y=rng.integers(0, 5, 12))
    return lambda model, **options: open_samples(str(tmp_path / "d.npz"), model.inputs(), **options)


@pytest.fixture
def int8(net, data):
    return quantize(net, data=data(net), mode="static", check=False)


def test_a_row_has_the_error_of_its_weights_and_where_it_comes_from(net, int8, data):
    found = report(int8, reference=net, data=data(int8))

    first, conv = found.layers[:2]
    assert (first.op, first.sources) == ("input", ())
    assert (conv.op, conv.tensor, conv.sources) == ("Conv", "r", (0,))
    assert conv.form == "integer"
    assert conv.error.sqnr > 20
    weight = conv.weights[0]
    assert (weight.name, weight.dtype, weight.n_scales) == ("w1", "int8", 4)
    assert weight.sqnr > 30
    assert sum(weight.bins.counts) == sum(weight.bins.other) == 4 * 3 * 3 * 3


def test_a_node_and_the_clamp_that_its_integers_need_not_are_one_row():
    model = model_of(
        """net (float[n, 8] x, float s, uint8 z) => (float[n, 8] y) {
            a = Neg(x)
            r = Relu(a)
            q = QuantizeLinear(r, s, z)
            y = DequantizeLinear(q, s, z)
        }""",
        s=np.float32(0.1),
        z=np.uint8(0),
    )

    assert [(layer.op, layer.tensor) for layer in report(model).layers] == [("Neg+Relu", "r")]


def test_stored_bytes_add_up_to_those_of_the_constants(net, int8, data):
    found = report(int8, reference=net)

    assert sum(found.stored.values()) == found.inspection.weight_bytes
    assert sum(layer.n_bytes for layer in found.layers) <= found.inspection.weight_bytes
    assert sum(layer.float_bytes for layer in found.layers) == found.reference.weight_bytes


def test_activations_are_counted_on_the_report_s_samples(net, int8, data):
    found = report(int8, reference=net, data=data(int8), layer_samples=5)

    seen = found.layers[0].activation
    assert sum(seen.bins.counts) == 5 * 3 * 8 * 8
    low, high = seen.range
    assert low <= 0 < high
    assert found.layer_samples == 5


def test_clipped_is_the_share_outside_of_the_range(net, data, rng, tmp_path):
    int8 = quantize(net, data=data(net), mode="static", range="minmax", check=False)
    wide = np.zeros((4, 3, 8, 8), np.float32)
    wide[:, 0] = 1000
    np.savez(tmp_path / "wide.npz", x=wide)

    found = report(int8, reference=net, data=open_samples(str(tmp_path / "wide.npz"), net.inputs()))

    assert found.layers[0].activation.clipped == pytest.approx(1 / 3, abs=0.02)


def test_calibration_counts_lie_beside_the_measured_ones(net, data):
    known = calibrate(net, data=data(net, samples=7))
    int8 = quantize(known, mode="static", check=False)
    both = replace(int8, statistics=known.statistics)

    bins = report(both, reference=net, data=data(net)).layers[0].activation.bins

    assert (sum(bins.counts), sum(bins.other)) == (12 * 192, 7 * 192)


def test_without_data_the_calibration_alone_is_shown(net, data):
    known = calibrate(net, data=data(net, samples=7))

    found = report(known).layers

    assert any(x.activation is not None and x.activation.bins is not None for x in found)


def test_kinds_count_every_sample_and_the_worst_come_first(net, int8, data):
    found = report(int8, reference=net, data=data(int8, labels=None), n_worst=4)

    assert sum(found.kinds.values()) == found.samples == 12
    assert len(found.worst) == 4
    places = [("lost", "changed", "won", "same").index(w.seen.kind) for w in found.worst]
    assert places == sorted(places)
    assert found.evaluation.metric == "top1"


def test_the_report_agrees_with_evaluate(net, int8, data):
    from qtool.stages.evaluate import evaluate

    mine = report(int8, reference=net, data=data(int8, labels=None)).evaluation
    theirs = evaluate(int8, reference=net, data=data(int8, labels=None))

    assert (mine.value, mine.drop_ci95) == (theirs.value, theirs.drop_ci95)
    assert mine.agreement == theirs.agreement


def test_images_are_shown_as_they_were_before_the_preprocessing(rng, tmp_path):
    from io import BytesIO

    from PIL import Image

    net = conv_net(rng)
    x = rng.integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "d.npz", x=x)
    preprocess = {"layout": "NCHW", "scale": "1/255", "mean": [0.5, 0.4, 0.3], "std": [0.2] * 3}
    data = open_samples(str(tmp_path / "d.npz"), net.inputs(), preprocess=preprocess)

    found = report(net, reference=net, data=data)

    shown = {w.seen.feed: Image.open(BytesIO(w.picture.content)) for w in found.worst}
    np.testing.assert_array_equal(np.asarray(shown[1]), x[1])


def test_vectors_are_shown_as_curves(rng, tmp_path):
    net = model_of(
        "net (float[n, 64] x, float[64, 3] w) => (float[n, 3] y) { y = MatMul(x, w) }",
        w=rng.normal(size=(64, 3)).astype(np.float32),
    )
    np.savez(tmp_path / "d.npz", x=rng.normal(size=(3, 64)).astype(np.float32))

    found = report(net, reference=net, data=open_samples(str(tmp_path / "d.npz"), net.inputs()))

    assert len(found.worst[0].picture.curve) == 64


@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_weight_only_models_have_weights_with_their_error(rng, tmp_path, weights):
    net = model_of(
        "net (float[n, 64] x, float[64, 8] w) => (float[n, 8] y) { y = MatMul(x, w) }",
        opset=21,
        w=rng.normal(size=(64, 8)).astype(np.float32),
    )
    np.savez(tmp_path / "d.npz", x=rng.normal(size=(3, 64)).astype(np.float32))
    stored = quantize(net, mode="weight-only", weights=weights, check=False)

    data = open_samples(str(tmp_path / "d.npz"), net.inputs())
    layer = report(stored, reference=net, data=data).layers[0]

    assert (layer.form, layer.weights[0].dtype) == ("weights", weights)
    assert layer.weights[0].sqnr == pytest.approx(layer.error.sqnr, abs=3)


def test_dynamic_models_follow_the_error_by_name(rng, tmp_path):
    net = model_of(
        "net (float[n, 64] x, float[64, 8] w) => (float[n, 8] y) { y = MatMul(x, w) }",
        w=rng.normal(size=(64, 8)).astype(np.float32),
    )
    np.savez(tmp_path / "d.npz", x=rng.normal(size=(3, 64)).astype(np.float32))
    dynamic = quantize(net, mode="dynamic", check=False)

    data = open_samples(str(tmp_path / "d.npz"), net.inputs())
    layer = report(dynamic, reference=net, data=data).layers[0]

    assert layer.op == "MatMulInteger"
    assert layer.error.sqnr > 20


def test_several_outputs_are_measured_each(rng, tmp_path):
    net = model_of(
        """net (float[n, 8] x, float[8, 3] w, float[8, 2] v) => (float[n, 3] y, float[n, 2] z) {
            y = MatMul(x, w)
            z = MatMul(x, v)
        }""",
        w=rng.normal(size=(8, 3)).astype(np.float32),
        v=rng.normal(size=(8, 2)).astype(np.float32),
    )
    np.savez(tmp_path / "d.npz", x=rng.normal(size=(5, 8)).astype(np.float32))
    data = open_samples(str(tmp_path / "d.npz"), net.inputs())

    found = report(quantize(net, data=data, mode="static", check=False), reference=net, data=data)

    assert set(found.evaluation.outputs) == {"y", "z"}


def test_labels_that_do_not_fit_leave_the_error_of_the_outputs(rng, tmp_path):
    net = model_of("net (float[n, 4, 5] x) => (float[n, 4, 5] y) { y = Sigmoid(x) }")
    np.savez(tmp_path / "d.npz", x=rng.normal(size=(3, 4, 5)).astype(np.float32), y=[0, 1, 2])
    data = open_samples(str(tmp_path / "d.npz"), net.inputs(), labels=None)

    found = report(net, reference=net, data=data)

    assert found.evaluation.metric == "sqnr"
    assert "labels are not used" in found.notes[0]


def test_a_reference_of_other_outputs_is_refused(net, int8, data):
    other = model_of(
        "net (float[n, 3, 8, 8] x) => (float[n, 3, 8, 8] y, float[n, 3, 8, 8] z) "
        "{ y = Relu(x) z = Neg(x) }"
    )

    with pytest.raises(DataError, match="they must be the same"):
        report(int8, reference=other, data=data(int8))


def test_a_reference_of_other_layers_is_wondered_at(net, int8, data, caplog):
    other = conv_net(np.random.default_rng(1))
    for node in other.graph:
        for value in node.outputs:
            value.name = value.name if value.is_graph_output() else f"other_{value.name}"

    found = report(int8, reference=other, data=data(int8))

    assert "is it the model that this one was made from?" in found.notes[0]


def test_samples_without_labels_and_reference_leave_the_rest(net, data):
    found = report(net, data=data(net))

    assert found.evaluation is None
    assert any("no labels" in note for note in found.notes)


def test_json_is_plain_and_the_same_for_any_number_of_threads(net, int8, data):
    one, two = (report(int8, reference=net, data=data(int8), threads=n) for n in (1, 2))

    text = json.dumps(finite(one.to_json()), allow_nan=False)
    assert text == json.dumps(finite(two.to_json()), allow_nan=False)
    assert json.loads(text)["layers"][1]["weights"][0]["name"] == "w1"
