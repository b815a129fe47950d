from __future__ import annotations

import json

import numpy as np
import pytest
from quant.graphs import conv_net, model_of

from qtool import formats
from qtool.data import open_samples
from qtool.stages.quantize import quantize


@pytest.fixture
def folder(tmp_path, rng):
    """q.onnx, model.onnx and x.npz of three samples."""
    np.savez(tmp_path / "x.npz", x=rng.normal(size=(3, 3, 8, 8)).astype(np.float32))
    net = conv_net(rng)
    data = open_samples(str(tmp_path / "x.npz"), net.inputs())
    formats.save(net, tmp_path / "model.onnx")
    formats.save(quantize(net, data=data, mode="static", check=False), tmp_path / "q.onnx")
    return tmp_path


@pytest.fixture
def verify(cli, folder):
    def run(*options):
        reference = ["--reference", folder / "model.onnx"]
        return cli(
            "verify", "-i", folder / "q.onnx", *reference, "--data", folder / "x.npz", *options
        )

    return run


def test_the_report_goes_to_stderr(verify):
    result = verify("--max-lsb", "0", "--min-sqnr", "5", "--min-agreement", "0%")

    assert (result.exit_code, result.stdout) == (0, "")
    assert "0 LSB" in result.stderr


def test_json_has_layers_and_outputs(verify):
    printed = json.loads(verify("--json", "-q").stdout)

    assert {"name", "sqnr", "max_lsb", "mean_lsb", "exact", "saturated", "enters"} <= set(
        printed["layers"][0]
    )
    assert printed["outputs"][0]["name"] == "y"
    assert (printed["samples"], printed["passed"], printed["max_lsb"]) == (3, None, 0)


def test_a_threshold_that_is_not_met_prints_first_and_exits_with_3(verify):
    result = verify("--min-sqnr", "300", "--json")

    assert result.exit_code == 3
    assert json.loads(result.stdout)["passed"] is False
    assert "error: the sqnr against float is " in result.stderr


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        ([], 2, "no samples: give --data"),
        (["--random", "--min-sqnr", "3"], 2, "--min-sqnr is against the float model"),
        (["--random", "--min-agreement", "3"], 2, "--min-agreement is against the float model"),
        (["--random", "--min-agreement", "x"], 2, "is no percentage"),
        (["--random", "--min-sqnr", "nan"], 2, "nan is no finite number"),
        (["--random", "--max-lsb", "-1"], 2, "is not in the range"),
        (["--data", "gone.npz"], 1, "cannot read gone.npz"),
        (["--random", "--reference", "gone.onnx"], 1, "gone.onnx"),
    ],
)
def test_what_goes_wrong(cli, folder, options, code, message):
    result = cli("verify", "-i", folder / "q.onnx", *options)

    assert (result.exit_code, result.stdout) == (code, "")
    assert message in result.stderr


def test_what_the_native_runtime_cannot_run_is_named(cli, tmp_path):
    model = model_of("net (float[1, 4, 4] x) => (float[1] y) { y = Det(x) }")
    formats.save(model, tmp_path / "m.onnx")

    result = cli("verify", "-i", tmp_path / "m.onnx", "--random")

    assert (result.exit_code, result.stdout) == (1, "")
    assert "Det" in result.stderr
