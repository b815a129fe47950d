from __future__ import annotations

import math

import numpy as np
import pytest
from quant.graphs import conv_net, model_of

from qtool import runtime
from qtool.data import open_samples
from qtool.errors import DataError, QtoolError, UsageError
from qtool.metrics import METRICS
from qtool.qparams import QParams
from qtool.runtime.ort import OrtSession
from qtool.stages._layer_sums import compared, sqnr
from qtool.stages._layers import layers_of
from qtool.stages.quantize import quantize
from qtool.stages.verify import verify

N = 6
UINT8 = QParams(np.array(0.5, np.float32), np.array(10, np.int32), "uint8")


@pytest.fixture
def net(rng):
    return conv_net(rng)


@pytest.fixture
def source(tmp_path, rng):
    np.savez(tmp_path / "x.npz", x=rng.normal(size=(N, 3, 8, 8)).astype(np.float32))
    return str(tmp_path / "x.npz")


@pytest.fixture
def int8(net, source):
    return quantize(net, data=open_samples(source, net.inputs()), mode="static", check=False)


@pytest.fixture
def data(int8, source):
    return open_samples(source, int8.inputs())


def test_layers_are_the_tensors_that_integers_stand_for(int8):
    found = {layer.name: (layer.op, layer.sources) for layer in layers_of(int8)}

    assert found["x"] == ("input", ())
    assert found["r"] == ("Conv", ("x",))
    assert found["d"] == ("Conv", ("r",))
    assert found["m"] == ("MaxPool", ("e",))
    assert found["y"][0] == "Softmax"
    assert "a" not in found, "the Relu is part of the Conv"


def test_equal_integers_are_exact():
    q = np.array([0, 10, 255], np.uint8)

    sums = compared(q, q, None, UINT8)

    assert (sums.n, sums.n_exact, sums.lsb, sums.most_lsb) == (3, 3, 0, 0)
    assert sums.n_saturated == 2
    assert math.isnan(sums.signal)


def test_differences_are_counted_in_lsb():
    sums = compared(
        np.array([0, 10, 250], np.uint8), np.array([255, 10, 248], np.uint8), None, UINT8
    )

    assert (sums.n_exact, sums.lsb, sums.most_lsb) == (1, 257, 255)


def test_an_end_that_stands_for_zero_is_no_saturation():
    relu = QParams(np.array(0.5, np.float32), np.array(0, np.int32), "uint8")

    assert compared(*[np.array([0, 0, 255], np.uint8)] * 2, None, relu).n_saturated == 1


def test_the_error_against_float_is_that_of_the_dequantized_integers():
    real = np.array([1.0, -2.0], np.float32)

    sums = compared(np.array([13, 6], np.uint8), np.array([12, 6], np.uint8), real, UINT8)

    assert (sums.signal, sums.noise, sums.noise_onnxruntime) == (5.0, 0.25, 0.0)
    assert sqnr(sums.signal, sums.noise) == pytest.approx(10 * math.log10(20))
    assert sqnr(sums.signal, sums.noise_onnxruntime) == math.inf


def test_the_same_nan_and_infinity_are_equal():
    values = np.array([np.nan, np.inf, 1], np.float32)

    sums = compared(values, values.copy(), None, None)

    assert (sums.n_exact, sums.most_apart) == (3, 0.0)


def test_one_nan_is_a_difference_that_shows():
    sums = compared(np.array([np.nan, 1.0]), np.array([0.0, 1.0]), None, None)

    assert sums.n_exact == 1
    assert math.isnan(sums.most_apart)


def test_sums_of_samples_add_up():
    one = compared(np.array([1, 2], np.uint8), np.array([1, 4], np.uint8), None, UINT8)
    other = compared(np.array([9], np.uint8), np.array([4], np.uint8), None, UINT8)

    both = one.plus(other)

    assert (both.n, both.n_exact, both.lsb, both.most_lsb) == (3, 1, 7, 5)


def test_the_runtimes_agree_on_every_integer(int8, net, data):
    report = verify(int8, data=data, reference=net)

    integers = [layer for layer in report.layers if layer.max_lsb is not None]
    assert len(integers) >= 6
    assert {layer.exact for layer in integers} == {1.0}
    assert (report.samples, report.max_lsb, report.passed) == (N, 0, None)


def test_the_outputs_are_measured_against_the_float_model(int8, net, data):
    report = verify(int8, data=data, reference=net)

    feeds = {"x": np.concatenate([sample.feeds["x"] for sample in data])}
    ours, real = (OrtSession(model).run(feeds)["y"] for model in (int8, net))
    metric = METRICS["sqnr"]
    assert report.sqnr == pytest.approx(metric.value(metric.rows(ours, real)), rel=1e-4)
    assert report.agreement == 100 * np.mean(ours.argmax(1) == real.argmax(1))


def test_a_layers_sqnr_is_that_of_the_reference_tensor_of_its_name(int8, net, data):
    report = verify(int8, data=data, reference=net)

    by_name = {layer.name: layer for layer in report.layers}
    assert by_name["x"].sqnr > 30
    assert by_name["r"].lost == pytest.approx(by_name["x"].sqnr - by_name["r"].sqnr)


@pytest.mark.parametrize("options", [{"window_bytes": 1}, {"threads": 1}, {"threads": 4}])
def test_neither_windows_nor_threads_change_the_result(int8, net, data, options):
    usual, other = (
        verify(int8, data=data, reference=net, **given).to_json() for given in ({}, options)
    )

    if "window_bytes" in options:
        assert other["windows"] == len(other["layers"])
    for report in (usual, other):
        del report["seconds"], report["windows"]
    assert usual == other


def test_without_a_reference_only_the_runtimes_are_compared(int8, data):
    report = verify(int8, data=data, max_lsb=0)

    assert (report.sqnr, report.agreement, report.passed) == (None, None, True)
    assert {layer.sqnr for layer in report.layers} == {None}


def wrong_at(tensor, by=1):
    """Return a runtime that is onnxruntime, but for one tensor where it is in the way."""

    class Wrong(OrtSession):
        def run(self, feeds):
            found = super().run(feeds)
            if tensor in found:
                found[tensor] = found[tensor] + np.array(by, found[tensor].dtype)
            return found

    return Wrong


@pytest.fixture
def wrong(monkeypatch, int8):
    """The name of a layer at which the native runtime is off by 3 LSB."""
    layer = next(layer for layer in layers_of(int8) if layer.name == "d")
    monkeypatch.setitem(runtime.RUNTIMES, "native", wrong_at(layer.fetched, 3))
    return layer.name


def test_where_a_difference_enters_is_named(int8, net, data, wrong):
    report = verify(int8, data=data, reference=net, max_lsb=1)

    assert (report.first_difference, report.max_lsb) == (wrong, 253)  # 254 + 3 wraps around
    assert [layer.name for layer in report.layers if layer.enters] == [wrong]
    assert report.failures == (
        f"layer '{wrong}' differs from onnxruntime by 253 LSB; 1 is allowed",
    )


def test_every_threshold_that_is_not_met_is_named(int8, net, data):
    report = verify(int8, data=data, reference=net, min_sqnr=300, min_agreement=100, max_lsb=0)

    assert report.passed is False
    assert report.failures[0].startswith("the sqnr against float is ")


def test_an_output_like_the_input_is_no_classes(tmp_path, rng):
    net = model_of("net (float[n, 4] x) => (float[n, 4] y) { y = Relu(x) }")
    np.savez(tmp_path / "x.npz", x=rng.normal(size=(3, 4)).astype(np.float32))
    data = open_samples(str(tmp_path / "x.npz"), net.inputs())

    report = verify(net, data=data, reference=net, min_agreement=50)

    assert report.agreement is None
    assert report.failures == ("the agreement with float is unknown; 50 % is needed",)


def test_a_threshold_against_float_needs_the_float_model(int8, data):
    with pytest.raises(UsageError, match="--min-sqnr is against the float model"):
        verify(int8, data=data, min_sqnr=3)


def test_a_reference_with_other_outputs_is_refused(int8, net, data):
    other = net.copy()
    other.graph.outputs.append(other.graph.node(0).outputs[0])

    with pytest.raises(DataError, match="the model's outputs are y, the reference's y, a"):
        verify(int8, data=data, reference=other)


def test_a_tensor_of_another_shape_is_an_error_not_a_number(monkeypatch, int8, data):
    class Wrong(OrtSession):
        def run(self, feeds):
            return {name: values[..., :1] for name, values in super().run(feeds).items()}

    monkeypatch.setitem(runtime.RUNTIMES, "native", Wrong)

    with pytest.raises(QtoolError, match="x.npz row 0: output 'y' has shape"):
        verify(int8, data=data)
