from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import pytest

from qtool.formats import load
from qtool.runtime.ort import OrtSession

NETWORKS = ["resnet", "dscnn", "mlp"]
MEAN, STD = 0.286, 0.353  # what preprocess.toml says, written out


@pytest.fixture(scope="module")
def test_samples(sample_models):
    with np.load(sample_models / "test.npz") as file:
        return (file["x"].astype(np.float32) / 255 - MEAN) / STD, file["y"]


def logits(path: Path, images: np.ndarray) -> np.ndarray:
    return OrtSession(load(path)).run({"image": images.astype(np.float32)})["logits"]


def stated_accuracy(readme: Path, name: str) -> float:
    row = re.search(rf"^\| `{name}` \|.*\| ([0-9.]+) \|$", readme.read_text(), re.MULTILINE)
    return float(row[1])


@pytest.mark.parametrize("name", NETWORKS)
def test_float_accuracy_is_what_the_readme_states(sample_models, test_samples, name):
    images, labels = test_samples

    right = logits(sample_models / f"{name}.onnx", images).argmax(1) == labels

    one_image = 100 / len(labels)  # onnxruntime's kernels may differ in the last bit
    stated = stated_accuracy(sample_models / "README.md", name)
    assert 100 * right.mean() == pytest.approx(stated, abs=1.01 * one_image)


@pytest.mark.parametrize("name", ["resnet", "dscnn"])
def test_the_training_form_is_unfused_and_its_weights_are_inputs(sample_models, name):
    graph = onnx.load(sample_models / f"{name}.train.onnx").graph

    assert {"BatchNormalization", "Dropout"} <= {node.op_type for node in graph.node}
    assert {t.name for t in graph.initializer} < {v.name for v in graph.input}


@pytest.mark.parametrize("name", NETWORKS)
def test_freezing_the_training_form_gives_the_plain_form(
    cli, sample_models, test_samples, tmp_path, name
):
    images = test_samples[0][:64]
    weights = sample_models / f"{name}.weights.npz"
    bound = ("--weights", weights) if weights.exists() else ()

    result = cli(
        "freeze", "-i", sample_models / f"{name}.train.onnx", *bound, "-o", tmp_path / "f.onnx"
    )

    assert result.exit_code == 0, result.stderr
    np.testing.assert_allclose(
        logits(tmp_path / "f.onnx", images),
        logits(sample_models / f"{name}.onnx", images),
        atol=1e-4,
    )


def test_there_are_enough_samples(sample_models):
    test, calibration = (np.load(sample_models / f"{n}.npz") for n in ("test", "calibration"))

    assert test["x"].shape[1:] == calibration["x"].shape[1:] == (1, 28, 28)
    assert len(test["x"]) == len(test["y"]) >= 1000
    assert len(calibration["x"]) >= 500
    assert set(test["y"]) == set(range(10))


def test_the_folder_is_small(sample_models):
    assert sum(path.stat().st_size for path in sample_models.iterdir()) < 8e6
