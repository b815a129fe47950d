from __future__ import annotations

import numpy as np
import pytest
from quant.graphs import conv_net, model_of

from qtool import formats
from qtool.data import open_samples
from qtool.errors import QtoolError, UnsupportedError, UsageError
from qtool.runtime.footprint import footprint
from qtool.runtime.peaks import Peaks
from qtool.stages.bench import bench, feeds_of
from qtool.stages.quantize import quantize


@pytest.fixture
def net(rng):
    return conv_net(rng)


@pytest.fixture
def int8(net):
    data = open_samples(None, net.inputs(), random=True, samples=4)
    return quantize(net, data=data, mode="static", check=False)


@pytest.fixture
def no_processes(monkeypatch):
    """Measuring load time and memory takes processes, a second each."""
    measured = {"load_ms": 1.0, "peak_mb": 1.0}
    monkeypatch.setattr("qtool.stages.bench.footprint", lambda *args: measured)


@pytest.mark.parametrize("runtime", ["native", "onnxruntime"])
def test_load_time_and_memory_are_measured(tmp_path, int8, runtime):
    formats.save(int8, tmp_path / "q.onnx")
    np.savez(tmp_path / "feeds.npz", **feeds_of(int8.inputs(), 1, {}))

    found = footprint(runtime, str(tmp_path / "q.onnx"), str(tmp_path / "feeds.npz"), 1)

    assert found["load_ms"] > 0
    assert 0 <= found["peak_mb"] < 500


def test_a_process_that_fails_says_why(tmp_path):
    with pytest.raises(QtoolError, match="could not measure the memory of native: .*gone"):
        footprint("native", str(tmp_path / "gone.onnx"), str(tmp_path / "gone.npz"), 1)


@pytest.mark.usefixtures("no_processes")
def test_all_contestants_are_timed_with_each_number_of_threads(int8, net):
    found = bench(int8, against_model=net, threads=[1, 2], seconds=0.1)

    names = [("native", "input"), ("onnxruntime", "input"), ("onnxruntime", "against")]
    assert [(t.runtime, t.model, t.threads) for t in found.timings] == [
        (*name, threads) for threads in (1, 2) for name in names
    ]
    assert all(0 < t.min_ms <= t.median_ms for t in found.timings)
    assert all(t.ratio_low <= t.ratio <= t.ratio_high for t in found.timings)
    assert all(t.load_ms > 0 and t.peak_mb >= 0 for t in found.timings)


@pytest.mark.usefixtures("no_processes")
def test_the_native_runtime_alone_is_1_of_itself(int8):
    (timing,) = bench(int8, against="none", seconds=0.1).timings

    assert (timing.runtime, timing.ratio, timing.rounds >= 5) == ("native", 1.0, True)


@pytest.mark.usefixtures("no_processes")
def test_each_op_is_measured_beside_the_peak(monkeypatch, int8):
    peaks = Peaks(dict.fromkeys(("amx", "avx512vnni", "avxvnni", "avx2", "scalar"), 1e6), 1e6)
    monkeypatch.setattr("qtool.stages.bench.measure", lambda threads: peaks)

    found = bench(int8, against="none", seconds=0.1, per_op=True)

    convs = [op for op in found.ops if op.op == "Conv"]
    assert len(convs) == 3, "two Conv and a Gemm"
    assert all(op.ms > 0 and op.gb > 0 for op in found.ops)
    assert all(0 < op.share < 1 and op.gmacs > 0 for op in convs)
    assert convs[0].gmacs == pytest.approx(4 * 3 * 9 * 64 / convs[0].ms / 1e6)


@pytest.mark.usefixtures("no_processes")
def test_the_batch_is_that_of_the_feeds(int8):
    found = bench(int8, against="none", seconds=0.1, batch=3)

    assert found.feeds == {"x": (3, 3, 8, 8)}


def model_with(dims):
    return model_of(f"net (float[{dims}] x) => (float[{dims}] y) {{ y = Relu(x) }}")


def test_open_dims_are_given_by_name():
    (x,) = feeds_of(model_with("n, h, 4").inputs(), 2, {"h": 5}).values()

    assert (x.shape, x.dtype) == ((2, 5, 4), np.float32)


@pytest.mark.parametrize(
    ("dims", "batch", "given", "message"),
    [
        ("n, h, 4", 1, {}, "give it with --set-dim h=SIZE"),
        ("n, 4", 1, {"h": 5}, "no input has a dim named 'h'"),
        ("2, 4", 3, {}, "the model fixes its batch at 2"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(dims, batch, given, message):
    with pytest.raises(UsageError, match=message):
        feeds_of(model_with(dims).inputs(), batch, given)


def test_a_runtime_that_is_not_there_is_refused(int8):
    with pytest.raises(UsageError, match="no runtime named 'openvino'"):
        bench(int8, against="openvino")


def test_what_the_native_runtime_cannot_run_is_named():
    model = model_of("net (float[1, 4, 4] x) => (float[1] y) { y = Det(x) }")

    with pytest.raises(UnsupportedError, match="Det"):
        bench(model)
