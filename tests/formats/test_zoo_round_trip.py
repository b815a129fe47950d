"""Packing every model of the zoo, and its integers, gives back every bit."""

from __future__ import annotations

import io

import onnx_ir as ir
import pytest

import qtool
from qtool import formats
from qtool.formats import qtm_file, tensors
from qtool.model import Model

FOLDERS = (
    "fashion-cnn", "mlperf-tiny-dscnn-kws", "mlperf-tiny-fc-autoencoder-ad",
    "mlperf-tiny-mobilenetv1-0.25-vww", "mlperf-tiny-resnet8-cifar10", "mnist-cntk",
    "mobilenet_v1_0.75_224", "ppocrv4-det", "resnet20-cifar10", "silero-vad-lstm",
    "squeezenet1_0-deepcompression", "squeezenet1_1-torchvision", "ultraface-rfb-320",
)  # fmt: skip


def bits(model: Model) -> list[tuple[str, tuple[int, ...], object]]:
    """Return type, shape and bytes of all tensors, in the order of the file."""
    found: list[tuple[str, tuple[int, ...], object]] = []

    def add(tensor: ir.TensorProtocol) -> None:
        strings = tensor.dtype == ir.DataType.STRING
        values = tuple(tensor.numpy().reshape(-1)) if strings else tensor.tobytes()
        found.append((tensor.dtype.name, tuple(tensor.shape.numpy()), values))

    tensors.replace_in_order(model.ir, add)
    return found


def again(model: Model) -> Model:
    """Return the model packed, and loaded again."""
    file = io.BytesIO()
    qtm_file.write_packed(model, file)
    return qtm_file.loads(file.getvalue(), name="m")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["float", "int8", "int4"])
@pytest.mark.parametrize("folder", FOLDERS)
def test_every_bit_of_a_model_comes_back(zoo, folder, kind) -> None:
    model = formats.load(zoo / "models" / folder / "model.onnx")
    if kind != "float":
        model = qtool.quantize(model, mode="weight-only", weights=kind, check=False)

    assert bits(again(model)) == bits(model)
