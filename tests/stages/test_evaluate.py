from __future__ import annotations

import json
import logging

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from qtool import formats
from qtool.data import open_samples
from qtool.errors import DataError, UsageError
from qtool.stages.evaluate import evaluate, samples_for
from qtool.stages.quantize import quantize

N, CLASSES = 200, 4


def linear(path, weights, batch="N", two=False):
    """Write and load y = x w, and z = -y if two."""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    outputs = ["y"]
    if two:
        nodes.append(helper.make_node("Neg", ["y"], ["z"]))
        outputs.append("z")
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, weights.shape[0]])],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, weights.shape[1]])
            for name in outputs
        ],
        [numpy_helper.from_array(weights.astype(np.float32), "w")],
    )
    opset = [helper.make_opsetid("", 13)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), path)
    return formats.load(path)


@pytest.fixture
def data(tmp_path, rng):
    """A file of rows of the identity, and labels of which the first 20 are wrong."""
    y = rng.integers(0, CLASSES, N)
    x = np.eye(CLASSES, dtype=np.float32)[y]
    y[:20] = (y[:20] + 1) % CLASSES
    np.savez(tmp_path / "d.npz", x=x, y=y)
    return str(tmp_path / "d.npz")


@pytest.fixture
def right(tmp_path):
    return linear(tmp_path / "right.onnx", np.eye(CLASSES))


@pytest.fixture
def worse(tmp_path):
    """Wrong on all samples of class 0."""
    weights = np.eye(CLASSES)
    weights[0] = [0, 1, 0, 0]
    return linear(tmp_path / "worse.onnx", weights)


def measure(model, source, reference=None, metric=None, target=None, **options):
    opened = {k: options.pop(k) for k in ("batch", "random", "samples") if k in options}
    samples = samples_for(model, reference, data=source, metric=metric, target=target, **opened)
    return evaluate(
        model, data=samples, reference=reference, metric=metric, target=target, **options
    )


def test_labels_give_top1(right, data):
    report = measure(right, data)

    assert (report.metric, report.value, report.n) == ("top1", 90.0, N)
    assert (report.drop, report.agreement, report.passed) == (None, None, None)


def test_a_reference_gives_the_paired_drop(right, worse, data):
    report = measure(worse, data, right)

    y = np.load(data)["x"].argmax(axis=1)
    true = np.load(data)["y"]
    lost = np.count_nonzero((y == 0) & (true == 0))
    won = np.count_nonzero((y == 0) & (true == 1))
    assert report.discordant == (lost, won)
    assert report.drop == pytest.approx(100 * (lost - won) / N)
    assert report.drop_ci95[0] < report.drop < report.drop_ci95[1]
    assert report.agreement == pytest.approx(100 * np.mean(y != 0))


@pytest.mark.parametrize("options", [{"threads": 1}, {"threads": 5}, {"batch": 7}])
def test_the_result_depends_on_neither_threads_nor_batch(right, worse, data, options):
    usual, other = (measure(worse, data, right, **o).to_json() for o in ({}, options))

    usual.pop("seconds")
    other.pop("seconds")
    assert usual == other


def test_a_model_of_fixed_batch_counts_true_samples_only(tmp_path, right, data):
    fixed = linear(tmp_path / "fixed.onnx", np.eye(CLASSES), batch=64)

    report = measure(fixed, data, right)

    assert (report.n, report.value, report.drop) == (N, 90.0, 0.0)


def test_without_labels_agreement_is_measured(right, worse, data):
    np.savez(data, x=np.load(data)["x"])

    report = measure(worse, data, right, metric="agreement")

    assert report.value == pytest.approx(100 * np.mean(np.load(data)["x"].argmax(1) != 0))
    assert report.drop == pytest.approx(100 - report.value)


def test_without_labels_and_classes_sqnr_is_measured(right):
    report = measure(right, None, right, random=True)

    assert (report.metric, report.value, report.drop) == ("sqnr", np.inf, None)
    assert report.to_json()["value"] is None


def test_of_several_outputs_the_worst_counts(tmp_path, right, worse):
    one, other = (
        linear(tmp_path / f"{i}.onnx", np.eye(3) * (1 + i / 10), two=True) for i in range(2)
    )

    report = measure(one, None, other, metric="rmse", random=True)

    assert set(report.outputs) == {"y", "z"}
    assert report.value == max(report.outputs.values())


def test_an_autoencoder_is_compared_with_its_input(tmp_path, rng):
    x = rng.normal(size=(9, 3)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    half = linear(tmp_path / "half.onnx", np.eye(3) / 2)

    report = measure(half, str(tmp_path / "x.npy"), metric="mse", target="input")

    assert report.value == pytest.approx(np.mean(np.square(x / 2)), rel=1e-6)


def test_reconstruction_error_scores_anomalies(tmp_path, rng):
    x = rng.normal(size=(40, 3)).astype(np.float32)
    x[:20] *= 9
    np.savez(tmp_path / "d.npz", x=x, y=np.arange(40) < 20)
    half = linear(tmp_path / "half.onnx", np.eye(3) / 2)

    report = measure(half, str(tmp_path / "d.npz"), metric="auc", target="input")

    assert report.value > 0.95


def test_a_users_metric_is_measured_and_compared(tmp_path, right, worse, data):
    (tmp_path / "mine.py").write_text(
        "def hit(outputs, labels):\n    return outputs.argmax(1) == labels\n"
    )

    report = measure(worse, data, right, metric=f"{tmp_path / 'mine.py'}:hit")

    assert report.reference == pytest.approx(0.9)
    assert report.drop_ci95[0] <= report.drop <= report.drop_ci95[1]


@pytest.mark.parametrize(
    ("max_drop", "confident", "passed"),
    [(100, False, True), (5, False, False), (18, True, True), (5, True, False)],
)
def test_the_gate(right, worse, data, max_drop, confident, passed):
    report = measure(worse, data, right, max_drop=max_drop, confident=confident)

    assert report.passed is passed
    assert f"the budget is {max_drop}" in report.reason


def test_too_little_data_to_tell_is_warned_of(right, data, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("qtool"), "propagate", True)

    report = measure(right, data, right, max_drop=1, confident=True, samples=10)

    assert report.passed is True
    assert "10 samples are too few to tell" in caplog.text


def test_nan_outputs_are_misses_and_warned_of(tmp_path, data, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("qtool"), "propagate", True)
    weights = np.eye(CLASSES)
    weights[0, 0] = np.nan

    report = measure(linear(tmp_path / "nan.onnx", weights), data)

    assert report.value == 0
    assert f"holds NaN for {N} of {N} samples" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_drop": 1}, "--max-drop compares with a reference"),
        ({"confident": True}, "give it with --max-drop"),
        ({"metric": "top2"}, "no metric named 'top2'"),
        ({"metric": "top1", "target": "input"}, "only labels"),
        ({"metric": "cosine"}, "cosine needs --reference"),
        ({"runtime": "nativ"}, "no runtime named 'nativ'"),
        ({"output": "z"}, "no output named 'z'"),
    ],
)
def test_options_that_do_not_go_together_are_wrong_usage(right, data, options, message):
    with pytest.raises(UsageError) as raised:
        measure(right, data, **options)

    assert message in str(raised.value)


def test_a_budget_for_sqnr_is_wrong_usage(right, data):
    with pytest.raises(UsageError, match="sqnr against the reference has no best value"):
        measure(right, data, right, metric="sqnr", max_drop=1)


def test_nothing_to_compare_with_is_wrong_usage(right):
    with pytest.raises(UsageError, match="nothing to compare with"):
        measure(right, None, random=True)


def test_labels_of_several_outputs_need_an_output_to_be_named(tmp_path, data):
    two = linear(tmp_path / "two.onnx", np.eye(CLASSES), two=True)

    with pytest.raises(UsageError, match="say which one top1 is of with --output-name"):
        measure(two, data)
    assert measure(two, data, output="y").value == 90.0


def test_a_label_beyond_the_classes_names_its_row(right, data):
    arrays = dict(np.load(data))
    arrays["y"][17] = 4
    np.savez(data, **arrays)

    with pytest.raises(DataError, match=r"d\.npz row 17: label 4 is not one of .* 0\.\.3"):
        measure(right, data)


def test_models_of_different_inputs_are_refused(tmp_path, right, data):
    wide = linear(tmp_path / "wide.onnx", np.eye(5))

    with pytest.raises(DataError, match=r"the model takes x: float32\[N,4\], the reference x"):
        measure(right, data, wide)


def test_the_models_preprocessing_is_the_default(tmp_path, right, data):
    from dataclasses import replace

    carried = {"channels": "RGB", "scale": 2.0}

    samples = samples_for(right, replace(right, preprocess=carried), data=data)

    assert samples.preprocess == carried


def test_the_native_runtime_measures_the_same(right, worse, data):
    worse = quantize(worse, data=open_samples(data, worse.inputs()), check=False)

    usual, native = (
        measure(worse, data, right, runtime=r).to_json() for r in ("onnxruntime", "native")
    )

    assert native.pop("runtime") == "native"
    assert {key: usual[key] for key in native if key != "seconds"} == {
        key: value for key, value in native.items() if key != "seconds"
    }


def test_samples_opened_by_hand_will_do(right, data):
    samples = open_samples(data, right.inputs(), labels=True, samples=50)

    assert evaluate(right, data=samples).n == 50


KEYS = {"metric", "value", "n", "reference", "drop", "drop_ci95"}
KEYS |= {"agreement", "passed", "runtime", "seconds", "reason"}


def test_the_command_prints_one_json_object(cli, right, worse, data, tmp_path):
    result = cli(
        "evaluate", "-i", tmp_path / "worse.onnx", "--reference", tmp_path / "right.onnx",
        "--data", data, "--json",
    )  # fmt: skip

    printed = json.loads(result.stdout)
    assert result.exit_code == 0
    assert set(printed) >= KEYS
    assert printed["reference"] == 90.0
    assert "agreement" in result.stderr


def test_the_command_prints_first_and_then_fails_with_3(cli, right, worse, data, tmp_path):
    result = cli(
        "evaluate", "-i", tmp_path / "worse.onnx", "--reference", tmp_path / "right.onnx",
        "--data", data, "--max-drop", "1", "--json",
    )  # fmt: skip

    assert result.exit_code == 3
    assert json.loads(result.stdout)["passed"] is False
    assert "error: top1 drops by" in result.stderr


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--data", "gone.npz"], 1, "error: cannot read gone.npz: there is no such file or folder"),
        ([], 2, "error: no samples: give --data, or --random to try without"),
        (["--data", "d", "--metric", "tpo1"], 2, "did you mean 'top1'"),
        (["--data", "d", "--max-drop", "1"], 2, "--reference"),
        (["--data", "d", "--preprocess", "imgnet"], 2, "did you mean 'imagenet'"),
    ],
)
def test_what_goes_wrong_in_the_command(cli, right, tmp_path, options, code, message):
    result = cli("evaluate", "-i", tmp_path / "right.onnx", *options)

    assert (result.exit_code, result.stdout) == (code, "")
    assert message in result.stderr
