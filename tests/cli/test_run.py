from __future__ import annotations

import json

import numpy as np
import pytest
from quant.graphs import conv_net

from qtool import formats
from qtool.data import open_samples
from qtool.stages.quantize import quantize

CLASSES = 5


@pytest.fixture
def folder(tmp_path, rng):
    """q.onnx, model.onnx, x.npz of three samples and names.txt."""
    np.savez(tmp_path / "x.npz", x=rng.normal(size=(3, 3, 8, 8)).astype(np.float32))
    net = conv_net(rng)
    data = open_samples(str(tmp_path / "x.npz"), net.inputs())
    formats.save(net, tmp_path / "model.onnx")
    formats.save(quantize(net, data=data, mode="static", check=False), tmp_path / "q.onnx")
    (tmp_path / "names.txt").write_text("".join(f"class {i}\n" for i in range(CLASSES)))
    return tmp_path


@pytest.mark.parametrize("runtime", ["native", "onnxruntime"])
def test_outputs_go_into_a_file(cli, folder, runtime):
    result = cli(
        "run", "-i", folder / "q.onnx", "--data", folder / "x.npz", "-o", folder / "y.npz",
        "--runtime", runtime,
    )  # fmt: skip

    assert (result.exit_code, result.stdout) == (0, "")
    with np.load(folder / "y.npz") as outputs:
        assert outputs["y"].shape == (3, CLASSES)


def test_classes_are_printed_beside_the_references(cli, folder):
    result = cli(
        "run", "-i", folder / "q.onnx", "--reference", folder / "model.onnx", "--data",
        folder / "x.npz", "--top", "2", "--labels", folder / "names.txt",
    )  # fmt: skip

    lines = result.stdout.splitlines()
    assert len(lines) == 3 * (1 + 1 + 2)
    assert lines[0].endswith("x.npz row 0")
    assert lines[1].split() == ["model", "reference"]
    assert lines[2].count("class ") == 2


def test_json_has_shapes_and_classes(cli, folder):
    result = cli("run", "-i", folder / "q.onnx", "--data", folder / "x.npz", "--top", "1", "--json")

    printed = json.loads(result.stdout)
    assert printed["outputs"] == {"y": {"dtype": "float32", "shape": [3, CLASSES]}}
    assert [set(sample) for sample in printed["top"]] == [{"sample", "model"}] * 3


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--random"], 2, "nothing to show: give --output for the values"),
        (["--top", "1"], 2, "no samples: give --data"),
        (["--random", "--labels", "names.txt"], 2, "--labels goes with --top"),
        (["--random", "-o", "y.npy"], 2, "y.npy: outputs are written as .npz"),
        (["--random", "-o", "gone/y.npz"], 1, "cannot write gone/y.npz: there is no folder"),
        (["--random", "--top", "1", "--runtime", "nativ"], 2, "did you mean 'native'?"),
        (["--random", "--top", "1", "--labels", "gone"], 1, "cannot read labels gone"),
        (["--data", "gone.npz", "--top", "1"], 1, "cannot read gone.npz"),
        (["--random", "--top", "1", "--output-name", "z"], 2, "no output named 'z'"),
    ],
)
def test_what_goes_wrong(cli, folder, options, code, message):
    result = cli("run", "-i", folder / "q.onnx", *options)

    assert (result.exit_code, result.stdout) == (code, "")
    assert f"error: {message}" in result.stderr or message in result.stderr
    assert not (folder / "y.npz").exists()


@pytest.mark.parametrize("command", ["run --top 1", "verify", "evaluate --runtime native"])
def test_an_unknown_instruction_set_is_wrong_usage(cli, folder, monkeypatch, command):
    monkeypatch.setenv("QTOOL_ISA", "sse9")
    name, *more = command.split()
    labels = ["--reference", folder / "q.onnx"] if name == "evaluate" else []

    result = cli(name, "-i", folder / "q.onnx", "--random", *more, *labels)

    assert (result.exit_code, result.stdout) == (2, "")
    assert "QTOOL_ISA or isa is 'sse9'; it may be scalar, neon, avx2" in result.stderr
