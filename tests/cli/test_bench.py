from __future__ import annotations

import json

import pytest
from quant.graphs import conv_net, model_of

from qtool import formats
from qtool.data import open_samples
from qtool.stages.quantize import quantize


@pytest.fixture
def path(tmp_path, rng):
    net = conv_net(rng)
    data = open_samples(None, net.inputs(), random=True, samples=4)
    formats.save(quantize(net, data=data, mode="static", check=False), tmp_path / "q.onnx")
    return tmp_path / "q.onnx"


@pytest.fixture(autouse=True)
def no_processes(monkeypatch):
    """Measuring load time and memory takes processes, a second each."""
    measured = {"load_ms": 1.0, "peak_mb": 1.0}
    monkeypatch.setattr("qtool.stages.bench.footprint", lambda *args: measured)


def test_json_has_times_and_ops(cli, path):
    result = cli("bench", "-i", path, "--seconds", "0.1", "--per-op", "--json")

    printed = json.loads(result.stdout)
    assert result.exit_code == 0
    assert [t["runtime"] for t in printed["timings"]] == ["native", "onnxruntime"]
    assert {"kernel", "ms", "gmacs", "gb", "share"} <= set(printed["ops"][0])
    assert printed["peaks"]["gb"] > 0


def test_the_table_goes_to_stderr(cli, path):
    result = cli("bench", "-i", path, "--seconds", "0.1", "--against", "none", "--threads", "1,2")

    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr.count("native") == 2


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--threads", "0"], 2, "is no list of numbers, such as 1,2"),
        (["--threads", "1,,2"], 2, "is no list of numbers, such as 1,2"),
        (["--against", "onnxruntim"], 2, "did you mean 'onnxruntime'?"),
        (["--against-model", "gone.onnx"], 1, "gone.onnx"),
        (["--set-dim", "h=4"], 2, "no input has a dim named 'h'"),
        (["--seconds", "0"], 2, "is not in the range"),
        (["--seconds", "nan"], 2, "nan is no finite number"),
    ],
)
def test_what_goes_wrong(cli, path, options, code, message):
    result = cli("bench", "-i", path, *options)

    assert (result.exit_code, result.stdout) == (code, "")
    assert message in result.stderr


def test_another_model_that_onnxruntime_cannot_feed_is_one_line(cli, path, tmp_path):
    formats.save(model_of("net (float[1] z) => (float[1] y) { y = Relu(z) }"), tmp_path / "m.onnx")

    result = cli("bench", "-i", path, "--against-model", tmp_path / "m.onnx", "--seconds", "0.1")

    assert (result.exit_code, result.stdout) == (1, "")
    assert "error: the model takes x: float32[n,3,8,8]; the reference z" in result.stderr
