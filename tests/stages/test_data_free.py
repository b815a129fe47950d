from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

import qtool
from qtool.cli.shell import script
from qtool.data import open_samples
from qtool.formats import load, save
from qtool.model import fingerprint
from qtool.runtime.ort import OrtSession
from qtool.stages._matching import matched
from qtool.stages._rescale import channel_statistics
from qtool.stages.calibrate import untracked


@pytest.fixture
def trained(tmp_path, rng):
    """A net of two Conv, BatchNormalization and Relu, whose statistics are of uniform inputs."""
    weights = {
        "w1": rng.normal(size=(6, 3, 3, 3)), "w2": rng.normal(size=(6, 6, 3, 3)),
        "w3": rng.normal(size=(6, 4)), "one": np.ones(6), "shift": rng.normal(size=6) / 2,
    }  # fmt: skip
    moments = {name: np.ones(6) for name in ("n_mean", "n_var", "m_mean", "m_var")}
    inputs = rng.random((16, 3, 16, 16)).astype(np.float32)
    for norm, tensor in (("n", "a"), ("m", "d")):
        session = OrtSession(network(tmp_path, weights | moments), outputs=[tensor])
        values = session.run({"x": inputs})[tensor]
        moments[f"{norm}_mean"], moments[f"{norm}_var"] = (
            values.mean((0, 2, 3)), values.var((0, 2, 3)),
        )  # fmt: skip
    return qtool.freeze(network(tmp_path, weights | moments))


def network(folder, constants):
    from onnx import helper, numpy_helper, save_model

    def norm(name, x, y):
        inputs = [x, "one", "shift", f"{name}_mean", f"{name}_var"]
        return helper.make_node("BatchNormalization", inputs, [y])

    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w1"], ["a"], pads=[1, 1, 1, 1]),
            norm("n", "a", "b"),
            helper.make_node("Relu", ["b"], ["c"]),
            helper.make_node("Conv", ["c", "w2"], ["d"]),
            norm("m", "d", "e"),
            helper.make_node("Relu", ["e"], ["f"]),
            helper.make_node("GlobalAveragePool", ["f"], ["g"]),
            helper.make_node("Flatten", ["g"], ["h"]),
            helper.make_node("Gemm", ["h", "w3"], ["y"]),
        ],
        "g",
        [helper.make_tensor_value_info("x", 1, ["n", 3, 16, 16])],
        [helper.make_tensor_value_info("y", 1, ["n", 4])],
        [numpy_helper.from_array(v.astype(np.float32), name) for name, v in constants.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    save_model(made, folder / "m.onnx")
    return load(folder / "m.onnx")


def pictures(model, n=8):
    return open_samples(None, model.inputs(), preprocess="unit", samples=n, data_free=True)


def test_matched_layers_give_the_moments_of_the_batch_norm_statistics(trained):
    data = pictures(trained)

    follows = matched(trained, data=data, threads=1, progress=untracked)

    found = channel_statistics(follows, [partial(data.__getitem__, i) for i in range(8)], threads=1)
    assert len(trained.batch_norm) == 2
    for name, known in trained.batch_norm.items():
        np.testing.assert_allclose(found[name].mean, known.mean, atol=1e-3)
        np.testing.assert_allclose(np.sqrt(found[name].variance), known.std, rtol=1e-3)


def test_without_batch_norm_statistics_the_model_itself_is_observed(trained):
    bare = replace(trained, batch_norm={})

    assert matched(bare, data=pictures(bare), threads=1, progress=untracked) is bare


def test_statistics_are_of_the_model_and_say_that_they_are_synthetic(trained, tmp_path):
    save(qtool.calibrate(trained, data=pictures(trained), gram=True), tmp_path / "c.qtm")

    found = load(tmp_path / "c.qtm").statistics

    assert found is not None
    assert (found.model, found.source, found.n_samples) == (fingerprint(trained), "synthetic", 8)


def test_outputs_get_twice_the_range_that_made_pictures_show(trained):
    made = qtool.calibrate(trained, data=pictures(trained))
    assert made.statistics is not None
    real = replace(made, statistics=replace(made.statistics, source="samples"))

    scales = []
    for model in (real, made):
        result = qtool.quantize(model, integer_outputs=True, range="minmax")
        node = next(n for n in result.graph if n.outputs[0].is_graph_output())
        scales.append(float(node.inputs[1].const_value.numpy()))

    assert scales[1] == pytest.approx(2 * scales[0])


def test_threads_do_not_change_a_byte(trained, tmp_path):
    for threads in (1, 2):
        made = qtool.quantize(trained, data=pictures(trained), threads=threads)
        save(made, tmp_path / f"{threads}.onnx")

    assert (tmp_path / "1.onnx").read_bytes() == (tmp_path / "2.onnx").read_bytes()


def test_the_command_line_quantizes_without_samples(trained, tmp_path, cli, rng):
    save(trained, tmp_path / "m.qtm")
    common = ["--data-free", "--preprocess", "unit", "--samples", 8]
    recipe = ["--save-recipe", tmp_path / "r.json"]

    one = cli("quantize", "-i", tmp_path / "m.qtm", *common, *recipe, "-o", tmp_path / "q.onnx")
    two = cli("quantize", "-i", tmp_path / "m.qtm", "--recipe", tmp_path / "r.json",
              "-o", tmp_path / "r.onnx")  # fmt: skip
    cli("calibrate", "-i", tmp_path / "m.qtm", *common, "--gram", "-o", tmp_path / "c.qtm")
    steps = [step.to_json() for step in load(tmp_path / "c.qtm").history]

    x = rng.random((1, 3, 16, 16)).astype(np.float32)
    want, got = (OrtSession(m).run({"x": x})["y"] for m in (trained, load(tmp_path / "q.onnx")))
    assert (one.exit_code, two.exit_code) == (0, 0)
    assert (tmp_path / "q.onnx").read_bytes() == (tmp_path / "r.onnx").read_bytes()
    assert np.abs(want - got).max() < 0.1 * np.abs(want).max()
    assert "--data-free" in script(steps, {"scale": 1}, "c.qtm")


def test_data_free_needs_a_preprocessing(trained, tmp_path, cli):
    save(trained, tmp_path / "m.qtm")

    found = cli("quantize", "-i", tmp_path / "m.qtm", "--data-free", "-o", tmp_path / "q.onnx")

    assert found.exit_code == 2
    assert "--preprocess" in found.stderr
    assert not (tmp_path / "q.onnx").exists()
