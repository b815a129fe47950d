from __future__ import annotations

from importlib import import_module
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from passes.cases import CASES, SEQUENCES
from passes.graphs import assert_same_outputs, feeds, ops, parse

from qtool import formats
from qtool.model import Model, fingerprint
from qtool.passes import PASSES
from qtool.passes.inference_form import inference_form
from qtool.passes.opset import raise_opset
from qtool.shapes import infer_shapes

SAMPLES = sorted((Path(__file__).parents[2] / "sample_models").glob("*.onnx"))
ZOO = (  # input sizes, where they are dynamic
    "fashion-cnn/model", "mlperf-tiny-dscnn-kws/model", "mlperf-tiny-fc-autoencoder-ad/model",
    "mlperf-tiny-mobilenetv1-0.25-vww/model", "mlperf-tiny-resnet8-cifar10/model",
    "mnist-cntk/model", "mobilenet_v1_0.75_224/model", "resnet20-cifar10/model",
    "resnet20-cifar10/model_unfused_bn", "squeezenet1_0-deepcompression/model",
    "squeezenet1_1-torchvision/model", "ultraface-rfb-320/model", "ppocrv4-det/model",
    "silero-vad-lstm/model", "silero-vad-lstm/model_if_dynamic_sr",
)  # fmt: skip
SIZES = {"ppocrv4-det/model": 64, "silero-vad-lstm/model_if_dynamic_sr": 0}

GRAPHS = {name: (graph, weights) for name, (_, graph, weights, _) in CASES.items()}


@pytest.mark.parametrize("name", CASES)
def test_a_pass_leaves_these_ops(name):
    chosen, graph, weights, expected = CASES[name]
    model = parse(graph, **weights)

    result = PASSES[chosen](model)

    assert ops(result) == expected


@pytest.mark.parametrize("name", SEQUENCES)
def test_passes_in_a_row_leave_these_ops(name, rng):
    chosen, graph, weights, expected = SEQUENCES[name]
    model = result = parse(graph, **weights)

    for each in chosen:
        result = PASSES[each](result)

    assert ops(result) == expected
    assert_same_outputs(model, result, feeds(model, rng))


@pytest.mark.parametrize("name", GRAPHS)
def test_every_pass_keeps_the_outputs_of(name, rng):
    graph, weights = GRAPHS[name]
    model = parse(graph, **weights)
    inputs = feeds(model, rng)

    for run in PASSES.values():
        result = run(model)
        if result is not model:
            assert_same_outputs(model, result, inputs)


@pytest.mark.parametrize("name", GRAPHS)
def test_no_pass_edits_its_argument(name):
    graph, weights = GRAPHS[name]
    model = parse(graph, **weights)
    before = fingerprint(model), ir.to_proto(model.ir).SerializeToString(deterministic=True)

    for run in PASSES.values():
        run(model)

    after = fingerprint(model), ir.to_proto(model.ir).SerializeToString(deterministic=True)
    assert after == before


@pytest.mark.parametrize("name", GRAPHS)
def test_a_pass_returns_its_argument_when_it_has_nothing_left_to_do(name):
    graph, weights = GRAPHS[name]

    for run in PASSES.values():
        model = parse(graph, **weights)
        for _ in range(10):
            result = run(model)
            if result is model:
                break
            model = result
        assert run(model) is model, run


def assert_passes_keep_outputs(model: Model, inputs: dict[str, np.ndarray]) -> None:
    before = result = infer_shapes(raise_opset(infer_shapes(inference_form(model)), 13))
    for run in PASSES.values():
        changed = run(result)
        if changed is not result:
            assert_same_outputs(before, changed, inputs)
        result = changed


@pytest.mark.parametrize("name", GRAPHS)
def test_constants_computed_on_demand_are_the_same_as(name, rng, monkeypatch):
    graph, weights = GRAPHS[name]
    model = parse(graph, **weights)
    for module in ("tensors", "fold_constants"):
        monkeypatch.setattr(import_module(f"qtool.passes.{module}"), "LAZY_BYTES", -1)

    result = PASSES[CASES[name][0]](model)

    assert_same_outputs(model, result, feeds(model, rng))


def test_weights_in_external_data_are_folded_and_their_file_is_left_alone(tmp_path, rng):
    graph, weights = GRAPHS["conv with bias, bn"]
    ir.save(parse(graph, **weights).ir, tmp_path / "m.onnx", external_data="m.data",
            size_threshold_bytes=0)  # fmt: skip
    before = (tmp_path / "m.data").read_bytes()
    model = infer_shapes(Model(ir.load(tmp_path / "m.onnx")))

    result = PASSES["fold-affine"](model)

    assert_same_outputs(parse(graph, **weights), result, feeds(model, rng))
    assert (tmp_path / "m.data").read_bytes() == before


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.name)
def test_every_pass_keeps_the_outputs_of_a_sample_model(path, rng):
    model = formats.load(path)

    assert_passes_keep_outputs(model, feeds(model, rng))


@pytest.mark.slow
@pytest.mark.parametrize("name", ZOO)
def test_every_pass_keeps_the_outputs_of_a_zoo_model(name, zoo, rng):
    model = formats.load(zoo / "models" / f"{name}.onnx")
    inputs = feeds(model, rng, SIZES.get(name, 2))
    if "dynamic_sr" in name:
        inputs = {
            "input": rng.standard_normal((1, 512)).astype(np.float32),
            "state": np.zeros((2, 1, 128), np.float32),
            "sr": np.array(16000),
        }

    assert_passes_keep_outputs(model, inputs)
