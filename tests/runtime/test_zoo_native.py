"""Every model of the zoo, quantized in each way, runs natively as in onnxruntime."""

from __future__ import annotations

import numpy as np
import pytest

from qtool.data import open_samples
from qtool.formats import load
from qtool.runtime import Session
from qtool.runtime.ort import OrtSession
from qtool.stages.freeze import freeze
from qtool.stages.quantize import quantize
from qtool.stages.verify import verify

SHAPES = {"ppocrv4-det": (1, 3, 96, 96), "silero-vad-lstm": (1, 576)}  # where they are dynamic
MODELS = [
    "fashion-cnn", "mlperf-tiny-dscnn-kws", "mlperf-tiny-fc-autoencoder-ad",
    "mlperf-tiny-mobilenetv1-0.25-vww", "mlperf-tiny-resnet8-cifar10", "mnist-cntk",
    "mobilenet_v1_0.75_224", "ppocrv4-det", "resnet20-cifar10", "silero-vad-lstm",
    "squeezenet1_1-torchvision", "ultraface-rfb-320",
]  # fmt: skip
#: What onnxruntime rounds otherwise, by how many steps at most, and why: docs/quantization.md.
DEVIATES = {
    "Add": (1, "adds the zero point before it rounds: ties, where that is odd"),
    "Mul": (1, "adds the zero point before it rounds: ties, and near ties"),
    "AveragePool": (1, "adds the zero point before it rounds: ties, and near ties"),
    "Softmax": (1, "sums float exponentials, where eq. 17 has integers"),
    "ConvTranspose": (1, "has no integer kernel: sums in float32, then quantizes"),
}


@pytest.fixture
def model(request, zoo):
    return freeze(load(zoo / "models" / request.param / "model.onnx"), check=False)


@pytest.fixture
def data(model, request, tmp_path):
    rng = np.random.default_rng(0)
    samples = {}
    for i, spec in enumerate(model.inputs()):
        shape = tuple(d if isinstance(d, int) else 1 for d in spec.shape)
        shape = SHAPES.get(request.node.callspec.params["model"], shape) if i == 0 else shape
        x = rng.normal(size=(2, *shape)).astype(spec.dtype)
        samples[spec.name] = x[:, 0] if shape[0] == 1 and isinstance(spec.shape[0], str) else x
    np.savez(tmp_path / "x.npz", **samples)
    return open_samples(str(tmp_path / "x.npz"), model.inputs(), preprocess="none")


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS, indirect=True)
def test_integers_of_static_models_are_onnxruntimes(model, data):
    quantized = quantize(model, data=data, mode="static", check=False, threads=1)

    report = verify(quantized, data=data, threads=1)

    assert any(layer.max_lsb is not None for layer in report.layers)
    for layer in report.layers:
        if layer.enters and layer.max_lsb:
            most, _ = DEVIATES.get(layer.op, (0, "equal"))
            assert layer.max_lsb <= most, f"{layer.name}, made by {layer.op}"


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["dynamic", "weight-only"])
@pytest.mark.parametrize("model", MODELS, indirect=True)
def test_outputs_of_other_models_are_near_onnxruntimes(model, mode, data):
    quantized = quantize(model, mode=mode, check=False, threads=1)
    feeds = next(iter(data)).feeds

    outputs = Session(quantized).run(None, feeds)

    expected = OrtSession(quantized, optimize=False).run(feeds).values()
    for y, other in zip(outputs, expected, strict=True):
        # A dynamic range that differs in its last bit can move a step of an activation.
        part = 1e-2 if mode == "dynamic" else 1e-4
        np.testing.assert_allclose(y, other, rtol=0, atol=part * max(1e-2, np.abs(other).max()))
