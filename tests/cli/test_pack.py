from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper


@pytest.fixture
def path(tmp_path, rng):
    weights = np.rint(rng.normal(0, 9, (64, 64))).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 64])],
        [numpy_helper.from_array(weights, "w")],
    )
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


def test_a_packed_model_unpacks_to_the_same_weights(cli, path, tmp_path) -> None:
    result = cli("pack", "-i", path, "-o", tmp_path / "m.qtm", "--json")
    again = cli("unpack", "-i", tmp_path / "m.qtm", "-o", tmp_path / "again.onnx")

    assert (result.exit_code, again.exit_code) == (0, 0)
    said = json.loads(result.stdout)
    assert said["n_bytes"] == (tmp_path / "m.qtm").stat().st_size < said["weight_bytes"] / 3
    before, after = (
        numpy_helper.to_array(onnx.load(p).graph.initializer[0])
        for p in (path, tmp_path / "again.onnx")
    )
    np.testing.assert_array_equal(before, after)


def test_an_onnx_file_cannot_be_packed(cli, path, tmp_path) -> None:
    result = cli("pack", "-i", path, "-o", tmp_path / "m.onnx")

    assert result.exit_code == 2
    assert "an ONNX file cannot be packed; write a .qtm" in result.stderr


def test_inspect_shows_how_each_tensor_is_stored(cli, path, tmp_path) -> None:
    cli("pack", "-i", path, "-o", tmp_path / "m.qtm")

    said = json.loads(cli("inspect", tmp_path / "m.qtm", "--json").stdout)["storage"]
    text = cli("inspect", tmp_path / "m.qtm").stdout

    (row,) = said["tensors"]
    assert row["codecs"].startswith("codebook(")
    assert row["bits"] == 8 * row["stored_bytes"] / 64**2
    assert row["entropy"] < row["bits"]
    assert set(said["ratios"]) == {"float32", "int8", "zip", "xz"}
    assert "packed: " in text


def test_inspect_of_a_plain_model_says_nothing_about_packing(cli, path) -> None:
    assert json.loads(cli("inspect", path, "--json").stdout)["storage"] is None
