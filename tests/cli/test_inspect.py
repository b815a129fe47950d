from __future__ import annotations

import json

import pytest
from quant.graphs import conv_net

from qtool.formats import save


@pytest.fixture
def path(tmp_path, rng):
    save(conv_net(rng), tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


def test_text_has_one_fact_per_line(cli, path):
    lines = cli("inspect", path).stdout.splitlines()

    assert {
        f"file: {path}",
        "format: onnx",
        "input: x: float32[n,3,8,8]",
        "op: Conv 2",
        "macs: 16448",
        "parameters: 585",
        "dtype: float32 6 constants 585 elements 2340 bytes",
        "coverage: nothing is quantized",
    } <= set(lines)


def test_the_input_option_does_as_the_argument(cli, path):
    assert cli("inspect", "--input", path).stdout == cli("inspect", path).stdout


def test_json_is_one_object(cli, path):
    made = json.loads(cli("inspect", path, "--json").stdout)

    assert (made["format"], made["macs"], made["file_bytes"]) == (
        "onnx",
        16448,
        path.stat().st_size,
    )


def test_tensors_lists_weights_with_their_values(cli, path):
    lines = cli("inspect", path, "--tensors").stdout.splitlines()

    assert [line.split()[1:5] for line in lines if line.startswith("weight  ")][1] == [
        "w1",
        "float32",
        "[4,3,3,3]",
        "432",
    ]


def test_tensor_shows_a_histogram(cli, path):
    lines = cli("inspect", path, "--tensor", "w1").stdout.splitlines()

    assert (lines[0], sum(line.startswith("bin") for line in lines)) == ("tensor: w1", 33)


def test_diff_of_a_model_with_itself(cli, path):
    assert cli("inspect", "--diff", path, path).stdout == "same: yes\n"


def test_a_dim_can_be_set(cli, path):
    assert "macs: 32896" in cli("inspect", path, "--set-dim", "n=2").stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give one model, not 0"),
        (["--diff", "{path}"], "give two models, not 1"),
        (["{path}", "--tensor", "w", "--tensors"], "--tensor goes without --tensors and --diff"),
        (["{path}", "--set-dim", "n=0"], "'n=0': a size is 1 to 2147483647"),
    ],
)
def test_wrong_usage(cli, path, arguments, message):
    result = cli("inspect", *(a.format(path=path) for a in arguments))

    assert (result.exit_code, message in result.stderr) == (2, True)


def test_a_wrong_ending_is_refused_before_anything_is_read(cli):
    assert "m.txt ends in '.txt'" in cli("inspect", "m.txt").stderr


def test_a_missing_file_is_named(cli, tmp_path):
    result = cli("inspect", tmp_path / "m.onnx")

    assert (result.exit_code, "there is no such file" in result.stderr) == (1, True)
