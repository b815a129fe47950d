from __future__ import annotations

import numpy as np
import pytest

import qtool
from qtool.data import open_samples
from qtool.errors import UsageError
from qtool.formats import load, save
from qtool.model import fingerprint
from qtool.quant.twins import KEY as TWINS
from qtool.runtime.ort import OrtSession


@pytest.fixture
def uneven(tmp_path, rng):
    """A separable net whose channels differ by up to four powers of ten, and samples for it."""
    from onnx import helper, numpy_helper, save_model

    scale = 10 ** rng.uniform(-2, 2, 8)

    def weight(name, values):
        return numpy_helper.from_array(np.asarray(values, np.float32), name)

    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Clip", ["a", "low", "high"], ["b"]),
        helper.make_node("Conv", ["b", "w2", "b2"], ["c"], group=8),
        helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("Conv", ["d", "w3", "b3"], ["e"]),
        helper.make_node("GlobalAveragePool", ["e"], ["f"]),
        helper.make_node("Flatten", ["f"], ["y"]),
    ]
    column = scale.reshape(-1, 1, 1, 1)
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("x", 1, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("y", 1, ["n", 4])],
        [weight("w1", rng.normal(size=(8, 3, 3, 3)) / 3), weight("b1", rng.normal(size=8)),
         weight("w2", column * rng.normal(size=(8, 1, 3, 3))), weight("b2", np.zeros(8)),
         weight("w3", rng.normal(size=(4, 8, 1, 1)) / scale[:, None, None]),
         weight("b3", rng.normal(size=4)), weight("low", 0), weight("high", 6)],
    )  # fmt: skip
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    save_model(made, tmp_path / "m.onnx")
    np.savez(tmp_path / "x.npz", x=rng.normal(size=(40, 3, 8, 8)).astype(np.float32))
    model = load(tmp_path / "m.onnx")
    return model, open_samples(str(tmp_path / "x.npz"), model.inputs())


def sqnr(model, quantized, data):
    sessions = [OrtSession(one) for one in (model, quantized)]
    want, got = (np.concatenate([s.run(x.feeds)["y"] for x in data]) for s in sessions)
    return 10 * np.log10(np.square(want).sum() / np.square(want - got).sum())


def test_equalized_weights_need_one_scale_per_tensor_only(uneven):
    model, data = uneven
    plain, equal = (
        qtool.quantize(model, data=data, per_channel=False, equalize=how)
        for how in ("none", "auto")
    )

    assert sqnr(model, equal, data) > sqnr(model, plain, data) + 10


def test_with_scales_per_channel_it_runs_where_it_is_sure_to_pay(uneven, monkeypatch):
    model, data = uneven

    def make(how):
        return qtool.quantize(model, data=data, equalize=how)

    auto, none, error = map(make, ("auto", "none", "error"))
    assert fingerprint(auto) == fingerprint(error)
    assert sqnr(model, error, data) > sqnr(model, none, data)

    monkeypatch.setattr("qtool.stages._transform.SURE_GAIN", 100.0)
    assert fingerprint(make("auto")) == fingerprint(none)


def test_weights_of_few_bits_are_equalized_on_request(uneven):
    model, data = uneven
    auto, none = (
        qtool.quantize(model, data=data, equalize=how, weights="int4") for how in ("auto", "none")
    )

    assert fingerprint(auto) == fingerprint(none)


def test_threads_do_not_change_a_byte(uneven, tmp_path):
    model, data = uneven
    for threads in (1, 2):
        result = qtool.quantize(model, data=data, per_channel=False, threads=threads)
        save(result, tmp_path / f"{threads}.onnx")

    assert (tmp_path / "1.onnx").read_bytes() == (tmp_path / "2.onnx").read_bytes()


def test_statistics_of_the_model_before_are_taken_anew(uneven):
    model, data = uneven
    calibrated = qtool.calibrate(model, data=data, gram=True)

    fresh, stale = (qtool.quantize(m, data=data, per_channel=False) for m in (model, calibrated))

    assert fingerprint(fresh) == fingerprint(stale)


def test_without_samples_it_is_refused(uneven):
    model, data = uneven
    calibrated = qtool.calibrate(model, data=data)

    with pytest.raises(UsageError, match="--equalize .* give --data"):
        qtool.quantize(calibrated, equalize="error")


def test_a_model_without_free_channels_is_left_alone(single_gemm, caplog):
    model, data = single_gemm
    with caplog.at_level("INFO", "qtool"):
        qtool.quantize(model, data=data, equalize="error")

    assert any("nothing to equalize" in r.message for r in caplog.records)


@pytest.fixture
def single_gemm(tmp_path, rng):
    """A single Gemm."""
    from onnx import helper, numpy_helper, save_model

    weight = numpy_helper.from_array(rng.normal(size=(4, 3)).astype(np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "w"], ["y"])], "g",
        [helper.make_tensor_value_info("x", 1, ["n", 4])],
        [helper.make_tensor_value_info("y", 1, ["n", 3])], [weight],
    )  # fmt: skip
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    save_model(made, tmp_path / "gemm.onnx")
    np.savez(tmp_path / "g.npz", x=rng.normal(size=(8, 4)).astype(np.float32))
    model = load(tmp_path / "gemm.onnx")
    return model, open_samples(str(tmp_path / "g.npz"), model.inputs())


@pytest.mark.parametrize("ending", ["onnx", "qtm"])
def test_layers_of_the_equalized_model_are_compared_with_the_scaled_reference(
    uneven, tmp_path, ending
):
    model, data = uneven
    save(qtool.quantize(model, data=data, per_channel=False), tmp_path / f"q.{ending}")

    found = qtool.verify(load(tmp_path / f"q.{ending}"), reference=model, data=data)

    known = [layer.sqnr for layer in found.layers if layer.sqnr is not None]
    assert len(known) >= 3
    assert min(known) > 20


@pytest.fixture
def idle(tmp_path, rng):
    """A net whose channel 1 hardly moves but counts, and half of whose others never change."""
    from onnx import helper, numpy_helper, save_model

    live = np.arange(8) < 4
    w1, w2 = rng.normal(size=(8, 3, 3, 3)) / 2, rng.normal(size=(8, 1, 3, 3))
    w3 = rng.normal(size=(4, 8, 1, 1)) * np.where(np.arange(8) == 1, 100, 1)[:, None, None]
    w1[1] /= 40
    w1[~live], w2[~live] = 0, 0
    values = {"w1": w1, "b1": np.where(live, 2, -1), "w2": w2, "b2": np.where(live, 3, -1),
              "w3": w3, "b3": rng.normal(size=4), "low": 0, "high": 6}  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Clip", ["a", "low", "high"], ["b"]),
        helper.make_node("Conv", ["b", "w2", "b2"], ["c"], group=8),
        helper.make_node("Clip", ["c", "low", "high"], ["d"]),
        helper.make_node("Conv", ["d", "w3", "b3"], ["e"]),
        helper.make_node("Flatten", ["e"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("x", 1, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("y", 1, ["n", 144])],
        [numpy_helper.from_array(np.asarray(v, np.float32), k) for k, v in values.items()],
    )  # fmt: skip
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    save_model(made, tmp_path / "m.onnx")
    np.savez(tmp_path / "x.npz", x=rng.normal(size=(40, 3, 8, 8)).astype(np.float32))
    model = load(tmp_path / "m.onnx")
    return model, open_samples(str(tmp_path / "x.npz"), model.inputs())


def test_channels_that_never_change_make_room_for_twins(idle):
    model, data = idle
    plain, twinned = (qtool.quantize(model, data=data, twins=how) for how in ("none", "auto"))

    assert sqnr(model, twinned, data) > sqnr(model, plain, data) + 3
    assert len(twinned.graph) == len(plain.graph)


@pytest.mark.parametrize(
    ("options", "has"),
    [({"layers": ("e=w4",)}, True), ({"layers": ("e=a16",)}, False), ({"weights": "int4"}, False)],
)
def test_layers_of_few_bits_leave_the_others_their_twins(idle, options, has):
    model, data = idle
    made = qtool.quantize(model, data=data, **options)

    assert (TWINS in made.ir.metadata_props) is has


def test_twins_are_the_same_for_any_number_of_threads(idle, tmp_path):
    model, data = idle
    for n in (1, 2):
        save(qtool.quantize(model, data=data, twins="auto", threads=n), tmp_path / f"{n}.onnx")

    assert (tmp_path / "1.onnx").read_bytes() == (tmp_path / "2.onnx").read_bytes()


@pytest.mark.parametrize(("options", "head"), [({}, "Gemm"), ({"weights": "int4"}, "Conv")])
def test_a_pooled_head_gives_floats_with_8_bit_weights(tmp_path, rng, options, head):
    from onnx import helper, numpy_helper, save_model

    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"]),
        helper.make_node("GlobalAveragePool", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "w2"], ["c"]),
        helper.make_node("Flatten", ["c"], ["y"]),
    ]
    weights = {"w1": rng.normal(size=(8, 3, 3, 3)), "w2": rng.normal(size=(4, 8, 1, 1))}
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("x", 1, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("y", 1, ["n", 4])],
        [numpy_helper.from_array(v.astype(np.float32), k) for k, v in weights.items()],
    )  # fmt: skip
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    save_model(made, tmp_path / "m.onnx")
    np.savez(tmp_path / "x.npz", x=rng.normal(size=(8, 3, 8, 8)).astype(np.float32))
    model = load(tmp_path / "m.onnx")

    data = open_samples(str(tmp_path / "x.npz"), model.inputs())
    found = qtool.quantize(model, data=data, **options)

    producer = found.graph.outputs[0].producer()
    assert [n.op_type for n in found.graph if n.op_type in ("Conv", "Gemm")][-1] == head
    assert (producer.op_type == "Gemm") == (head == "Gemm")
