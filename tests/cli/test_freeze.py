from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from passes.graphs import ops, parse

from qtool import formats


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "model.onnx"
    graph = (
        "g (float[batch,6] x, float[6,4] w) => (float[batch,4] y) { a = MatMul(x, w) y = Relu(a) }"
    )
    ir.save(parse(graph, ir_version=8).ir, path)
    return path


def test_freeze_writes_the_frozen_model_and_prints_a_table(cli, model, tmp_path):
    np.savez(tmp_path / "w.npz", w=np.ones((6, 4), np.float32))

    result = cli(
        "freeze", "-i", model, "-o", tmp_path / "f.onnx", "--weights", tmp_path / "w.npz",
        "--set-dim", "batch=1", "--outputs", "a",
    )  # fmt: skip

    assert result.exit_code == 0
    assert result.stdout == ""
    assert "checked output a on 4 random samples: largest difference 0" in result.stderr
    assert "MatMul" in result.stderr
    frozen = formats.load(tmp_path / "f.onnx")
    assert ops(frozen) == {"MatMul": 1}
    assert [str(s) for s in frozen.inputs()] == ["x: float32[1,6]"]


def test_freeze_gives_the_same_bytes_each_time(cli, model, tmp_path):
    for name in ("one.onnx", "two.onnx"):
        assert cli("freeze", "-i", model, "-o", tmp_path / name).exit_code == 0

    assert (tmp_path / "one.onnx").read_bytes() == (tmp_path / "two.onnx").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--set-dim", "batch"], 2, "'batch' is not NAME=SIZE, such as batch=1"),
        (["--set-dim", "n=1"], 2, "no dim named 'n': known: batch, x:0"),
        (["--outputs", "z"], 2, "no node of the model has an output named 'z'"),
        (["--pass", "fold-afine"], 2, "no pass named 'fold-afine': did you mean 'fold-affine'?"),
        (["--weights", "none.npz"], 1, "cannot read none.npz: there is no such file"),
        (["--weights", "w.bin"], 2, "w.bin: a checkpoint ends in .npz or .safetensors"),
    ],
)
def test_freeze_says_what_is_wrong(cli, model, tmp_path, arguments, code, message):
    result = cli("freeze", "-i", model, "-o", tmp_path / "f.onnx", *arguments)

    assert result.exit_code == code
    assert message in result.stderr
    assert not (tmp_path / "f.onnx").exists()
