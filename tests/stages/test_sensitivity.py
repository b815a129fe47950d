from __future__ import annotations

from typing import NamedTuple

import numpy as np
import onnx_ir as ir
import pytest
from quant.graphs import conv_net, model_of

from qtool import formats
from qtool.data import open_samples
from qtool.errors import DataError, UnsupportedError, UsageError
from qtool.quant.pairs import pairs
from qtool.runtime.ort import OrtSession
from qtool.stages._causes import _layer_that_reads, _of_weights, _tail, _widened
from qtool.stages._isolate import isolate
from qtool.stages.calibrate import calibrate
from qtool.stages.quantize import quantize
from qtool.stages.sensitivity import sensitivity


class Net(NamedTuple):
    model: object
    x: np.ndarray
    samples: object


def with_samples(model, x, folder) -> Net:
    folder.mkdir(exist_ok=True)
    np.savez(folder / "x.npz", x=x)
    return Net(model, x, open_samples(str(folder / "x.npz"), model.inputs()))


@pytest.fixture
def net(rng, tmp_path) -> Net:
    x = rng.normal(size=(24, 3, 8, 8)).astype(np.float32)
    return with_samples(conv_net(rng), x, tmp_path)


def one_conv(rng, tmp_path, w=None, b=None, x=None) -> Net:
    """x -> conv -> relu -> conv -> mean: the first conv is the one to look at."""
    w = rng.normal(size=(8, 4, 3, 3)) / 6 if w is None else w
    model = model_of(
        """
        net (float[1, 4, 8, 8] x, float[8,4,3,3] w, float[8] b, float[6,8,1,1] v)
            => (float[1, 6, 1, 1] y) {
            a = Conv<pads = [1,1,1,1]>(x, w, b)
            r = Relu(a)
            d = Conv(r, v)
            y = GlobalAveragePool(d)
        }
        """,
        w=np.asarray(w, np.float32),
        b=np.asarray(np.zeros(8) if b is None else b, np.float32),
        v=(rng.normal(size=(6, 8, 1, 1)) / 3).astype(np.float32),
    )
    x = rng.normal(size=(24, 4, 8, 8)) if x is None else x
    return with_samples(model, np.asarray(x, np.float32), tmp_path)


def layer(found, name):
    return next(row for row in found.layers if row.name == name)


def test_the_prediction_is_near_what_is_measured(net):
    # The prediction takes errors for noise; rounding by Gram matrices and correction lower them.
    quantized = quantize(net.model, data=net.samples, rounding="nearest", correct="none")

    found = sensitivity(quantized, reference=net.model, data=net.samples)

    pairs_of = [
        (r.sqnr, r.measured_sqnr) for r in found.layers if r.op.startswith(("Conv", "Gemm"))
    ]
    assert len(pairs_of) == 3
    assert np.ptp(pairs_of, axis=1).max() < 2
    assert all(abs(r.cumulative - r.measured_cumulative) < 12 for r in found.layers)


def test_shares_add_up_and_name_the_worst(net):
    options = {"layers": ("d=w4",)}
    calibrated = calibrate(net.model, data=net.samples, gram=True)

    found = sensitivity(calibrated, data=net.samples, **options)

    assert sum(row.share for row in found.layers) == pytest.approx(1)
    assert found.ranked[0].name == found.worst()[0].name == "d"
    assert layer(found, "d").cause == "few levels"
    assert layer(found, "d").remedy == "--layer 'd=w8'"


def test_a_calibrated_model_is_enough_for_a_prediction(net):
    calibrated = calibrate(net.model, data=net.samples, gram=True)

    found = sensitivity(calibrated)

    assert found.exact
    assert all(row.sqnr > 20 and row.measured_sqnr is None for row in found.layers)


def test_only_the_isolated_layer_changes(net):
    quantized = quantize(net.model, data=net.samples)
    found, _ = pairs(quantized, net.model)
    second = next(pair for pair in found if pair.node.outputs[0].name == "d")

    made = isolate(net.model, second)

    names = ["r", made.real, made.quantized]
    got = OrtSession(made.model, outputs=names).run({"x": net.x})
    truth = OrtSession(net.model, outputs=["r", "d"]).run({"x": net.x})
    np.testing.assert_allclose(got["r"], truth["r"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(got[made.real], truth["d"], rtol=1e-5, atol=1e-5)
    assert 1e-4 < np.abs(got[made.quantized] - truth["d"]).max() < 0.3


def test_weights_of_unequal_channels_under_one_scale_are_an_imbalance(rng, tmp_path):
    w = rng.normal(size=(8, 4, 3, 3)) * np.array([30, 1, 1, 1, 1, 1, 1, 1])[:, None, None, None]
    w[0] *= np.arange(9).reshape(3, 3) == 4  # a large weight in a channel that the rest ignores
    net = one_conv(rng, tmp_path, w=w)
    calibrated = calibrate(net.model, data=net.samples, gram=True)
    found, _ = pairs(quantize(calibrated, per_channel=False), calibrated)

    cause = next(_of_weights(found[0]))

    assert (cause.name, cause.remedy) == ("channel imbalance", "--per-channel")


def test_a_rare_large_value_is_a_range_outlier(rng, tmp_path):
    x = rng.normal(size=(24, 4, 8, 8))
    x[0, 0, 0, 0] = 200.0
    net = one_conv(rng, tmp_path, x=x)
    calibrated = calibrate(net.model, data=net.samples, gram=True)

    found = sensitivity(calibrated, data=net.samples, range="minmax")

    assert layer(found, "a").cause == "range outlier"
    assert layer(found, "a").remedy == "--range mse"


def test_a_noisy_output_is_remedied_where_it_is_read_also_without_node_names(rng, tmp_path):
    net = one_conv(rng, tmp_path)
    quantized = quantize(net.model, data=net.samples, threads=1)

    first = next(pair for pair in pairs(quantized, net.model)[0] if pair.label == "a")

    assert _layer_that_reads(first, "output") == "d"
    assert _layer_that_reads(first, "inputs") == "a"


def test_a_noisy_output_that_float_nodes_read_is_remedied_by_what_moves_it(rng, tmp_path):
    model = model_of(
        """
        net (float[n, 4] x, float[4, 8] w, int64[2] shape, float two, float[8, 3] v)
            => (float[n, 3] y) {
            a = MatMul(x, w)
            b = Reshape(a, shape)
            c = Pow(b, two)
            y = MatMul(c, v)
        }
        """,
        w=rng.normal(size=(4, 8)).astype(np.float32),
        shape=np.asarray([-1, 8]),
        two=np.asarray(2, np.float32),
        v=rng.normal(size=(8, 3)).astype(np.float32),
    )
    net = with_samples(model, rng.normal(size=(24, 4)).astype(np.float32), tmp_path)
    quantized = quantize(net.model, data=net.samples, threads=1)

    first = next(pair for pair in pairs(quantized, net.model)[0] if pair.label == "a")

    assert _layer_that_reads(first, "output") == "b"


def test_a_range_of_too_few_samples_is_saturation(rng, tmp_path):
    net = one_conv(rng, tmp_path)
    small = with_samples(net.model, net.x / 4, tmp_path / "small")
    quantized = quantize(net.model, data=small.samples)

    found = sensitivity(quantized, reference=net.model, data=net.samples)

    assert layer(found, "a").cause == "saturation"
    assert layer(found, "a").saturated > 0.01


def test_a_bias_that_widens_its_scale_is_a_bias_clip(rng, tmp_path):
    b = np.zeros(8)
    b[3] = 1e6
    net = one_conv(rng, tmp_path, b=b)
    calibrated = calibrate(net.model, data=net.samples, gram=True)
    found, _ = pairs(quantize(calibrated), calibrated)

    assert _widened(found[0]) == 1
    assert next(_of_weights(found[0])).name == "bias clip"


def test_an_output_behind_a_sigmoid_is_a_tail(rng, tmp_path):
    model = model_of(
        """
        net (float[1, 4, 8, 8] x, float[8,4,1,1] w, float[2,8,1,1] v) => (float[1, 2, 8, 8] y) {
            a = Conv(x, w)
            r = Relu(a)
            d = Conv(r, v)
            y = Sigmoid(d)
        }
        """,
        w=(rng.normal(size=(8, 4, 1, 1)) / 2).astype(np.float32),
        v=(rng.normal(size=(2, 8, 1, 1)) * 20).astype(np.float32),
    )
    net = with_samples(model, rng.normal(size=(24, 4, 8, 8)).astype(np.float32), tmp_path)
    calibrated = calibrate(net.model, data=net.samples, gram=True)

    found, _ = pairs(quantize(calibrated, integer_outputs=True), calibrated)
    cause = _tail(next(pair for pair in found if pair.label == "d"))
    assert cause is not None
    assert (cause.name, cause.remedy) == ("post-processing tail", "--exclude 'd'")


def test_a_quantized_model_needs_its_float_one(net):
    with pytest.raises(UsageError, match="give the float one with --reference"):
        sensitivity(quantize(net.model, data=net.samples), data=net.samples)


def test_a_float_model_of_other_inputs_is_refused_before_anything_is_run(net):
    quantized = quantize(net.model, data=net.samples, threads=1)
    wide = net.model.copy()
    wide.graph.inputs[0].shape = ir.Shape([1, 3, 9, 9])

    with pytest.raises(DataError, match=r"the model takes x: .*, the reference x: "):
        sensitivity(quantized, reference=wide, data=net.samples, threads=1)


def test_without_statistics_and_data_there_is_nothing_to_tell_from(net):
    with pytest.raises(UsageError, match="give --data"):
        sensitivity(net.model)


def test_a_model_of_other_names_cannot_be_paired(net, rng, tmp_path):
    other = one_conv(rng, tmp_path)
    with pytest.raises(UnsupportedError, match="could be paired"):
        sensitivity(quantize(conv_net(rng), mode="weight-only"), reference=model_of(
            "net (float[1,2] x, float[2,2] w) => (float[1,2] y) { y = MatMul(x, w) }",
            w=np.eye(2, dtype=np.float32),
        ), data=other.samples)  # fmt: skip


def test_the_file_of_the_worst_layers_is_one_for_quantize(net, tmp_path, cli):
    formats.save(net.model, tmp_path / "m.onnx")
    data = ("--data", tmp_path / "x.npz")
    cli("quantize", "-i", tmp_path / "m.onnx", *data, "--layer", "d=w4", "-o", tmp_path / "q.onnx")

    shown = cli("inspect", "--sensitivity", tmp_path / "q.onnx", "--reference",
                tmp_path / "m.onnx", *data, "--exclude-from", tmp_path / "worst.txt")  # fmt: skip
    again = cli("quantize", "-i", tmp_path / "m.onnx", *data, "--exclude-from",
                tmp_path / "worst.txt", "-o", tmp_path / "q2.onnx")  # fmt: skip

    assert shown.exit_code == again.exit_code == 0, shown.stderr + again.stderr
    assert "remedy d: --layer 'd=w8'" in shown.stdout
    assert "--exclude d" in "".join(
        n.metadata_props.get("qtool.float", "") for n in formats.load(tmp_path / "q2.onnx").graph
    )


def test_the_options_of_a_sensitivity_need_it(tmp_path, cli):
    done = cli("inspect", tmp_path / "m.onnx", "--data", "x.npz")

    assert (done.exit_code, "--data goes with --sensitivity" in done.stderr) == (2, True)


@pytest.mark.parametrize(("rounding", "told"), [("nearest", True), ("descent", False)])
def test_weights_rounded_to_the_nearest_are_told_of_descent(rng, tmp_path, rounding, told):
    x = rng.normal(size=(24, 4, 8, 8)) + 1  # neighbours that are alike: rounding has a choice
    net = one_conv(rng, tmp_path, x=x)
    calibrated = calibrate(net.model, data=net.samples, gram=True)
    found, _ = pairs(quantize(calibrated, rounding=rounding), calibrated)

    remedies = [cause.remedy for cause in _of_weights(found[0])]

    assert ("--rounding descent" in remedies) is told


def test_an_output_that_was_never_observed_is_predicted_as_well(rng, tmp_path):
    model = model_of(
        """
        net (float[n, 4, 8, 8] x, float[8,4,1,1] w, float[8,4,3,3] v, float[4,16,1,1] u)
            => (float[n, 4, 8, 8] y) {
            a = Conv(x, w)
            b = Relu(a)
            c = Conv<pads = [1,1,1,1]>(x, v)
            d = Relu(c)
            e = Concat<axis = 1>(b, d)
            y = Conv(e, u)
        }
        """,
        w=rng.normal(size=(8, 4, 1, 1)).astype(np.float32),
        v=rng.normal(size=(8, 4, 3, 3)).astype(np.float32),
        u=rng.normal(size=(4, 16, 1, 1)).astype(np.float32),
    )
    net = with_samples(model, rng.normal(size=(16, 4, 8, 8)).astype(np.float32), tmp_path)

    found = sensitivity(calibrate(model, data=net.samples, gram=True), data=net.samples)

    for name in ("a", "c"):
        layer = next(one for one in found.layers if one.name == name)
        assert layer.sqnr == pytest.approx(layer.measured_sqnr, abs=1.5)
