from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest

import qtool
from qtool.data import open_samples
from qtool.errors import UsageError
from qtool.formats import load
from qtool.model import Model, array, fingerprint
from qtool.quant.pair_sums import hazards
from qtool.runtime.ort import OrtSession


@pytest.fixture
def calibrated(tmp_path, rng):
    """A model of a Conv, a depthwise Conv and a MatMul with its Add, on correlated inputs."""
    import onnx
    from onnx import helper, numpy_helper

    def weight(name, *shape):
        return numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name)

    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "w2", "b2"], ["c"], group=8),
        helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("GlobalAveragePool", ["d"], ["e"]),
        helper.make_node("Flatten", ["e"], ["f"]),
        helper.make_node("MatMul", ["f", "w3"], ["g"]),
        helper.make_node("Add", ["g", "b3"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("x", 1, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("y", 1, ["n", 4])],
        [weight("w1", 8, 3, 3, 3), weight("w2", 8, 1, 3, 3), weight("b2", 8), weight("w3", 8, 4),
         weight("b3", 4)],
    )  # fmt: skip
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.save(made, tmp_path / "m.onnx")
    mixed = np.einsum("nchw,cd->ndhw", rng.standard_normal((64, 3, 8, 8)), rng.random((3, 3)))
    np.savez(tmp_path / "x.npz", x=(mixed + 1).astype(np.float32))
    model = load(tmp_path / "m.onnx")
    data = open_samples(str(tmp_path / "x.npz"), model.inputs())
    return qtool.calibrate(model, data=data, gram=True), data


def error(model, quantized, data):
    sessions = [OrtSession(one) for one in (model, quantized)]
    outputs = [np.concatenate([s.run(x.feeds)["y"] for x in data]) for s in sessions]
    return float(np.square(outputs[0] - outputs[1]).mean())


@pytest.mark.parametrize("weights", ["int8", "int4", "uint4", "int3"])
def test_rounding_by_the_gram_matrix_errs_less(calibrated, weights):
    model, data = calibrated
    options = {"weights": weights, "activations": "uint16", "weight_symmetric": weights != "uint4"}

    nearest, auto = (
        error(model, qtool.quantize(model, rounding=r, **options), data)
        for r in ("nearest", "auto")
    )

    assert auto < 0.6 * nearest


@pytest.mark.parametrize("weights", ["int4", "uint4", "int3"])
@pytest.mark.parametrize("block_size", [0, 4])
def test_rounding_weights_only_by_the_gram_matrix_errs_less(calibrated, weights, block_size):
    model, data = calibrated
    options = {"mode": "weight-only", "weights": weights, "block_size": block_size}

    nearest, auto = (
        error(model, qtool.quantize(model, rounding=r, **options), data)
        for r in ("nearest", "auto")
    )

    assert auto < 0.6 * nearest


def test_weights_only_are_rounded_by_samples_as_by_their_gram_matrices(calibrated):
    model, data = calibrated
    options = {"mode": "weight-only", "weights": "int4", "block_size": 4}
    plain = Model(model.ir)

    by_data, by_grams = (
        qtool.quantize(one, data=given, **options) for one, given in ((plain, data), (model, None))
    )

    assert fingerprint(by_data) == fingerprint(by_grams)


@pytest.mark.parametrize(("mode", "rounding"), [("weight-only", "nearest"), ("dynamic", "auto")])
def test_samples_that_nothing_uses_are_mentioned(calibrated, caplog, mode, rounding):
    model, data = calibrated

    qtool.quantize(Model(model.ir), data=data, mode=mode, rounding=rounding)

    assert "the samples are not used" in caplog.text


def test_blocks_with_samples_need_the_mode(calibrated):
    model, data = calibrated

    with pytest.raises(UsageError, match="--block-size goes with --mode weight-only"):
        qtool.quantize(model, data=data, weights="int4", block_size=32)


def test_rounding_by_matrices_that_are_missing_is_refused(calibrated):
    model, data = calibrated
    without = replace(model, statistics=replace(model.statistics, grams={}))

    for given in (without, Model(model.ir)):
        with pytest.raises(UsageError, match="--rounding gptq"):
            qtool.quantize(given, rounding="gptq")


def test_samples_give_the_matrices_that_statistics_lack(calibrated):
    model, data = calibrated
    without = replace(model, statistics=replace(model.statistics, grams={}))
    options = {"rounding": "gptq", "equalize": "none", "absorb": "none", "correct": "none"}

    by_data, by_grams = (
        qtool.quantize(one, data=given, **options)
        for one, given in ((without, data), (model, None))
    )

    assert fingerprint(by_data) == fingerprint(by_grams)


def test_three_bits_use_eight_values(calibrated):
    model, _ = calibrated

    quantized = qtool.quantize(model, weights="int3")

    integers = [array(v) for v in quantized.graph.initializers.values() if "INT4" in str(v.dtype)]
    assert {int(i) for v in integers for i in v.astype(int).flat} == set(range(-4, 4))


def test_rounding_in_blocks_gives_the_same_bytes_for_any_number_of_threads(calibrated):
    model, _ = calibrated
    options = {"mode": "weight-only", "weights": "int4", "block_size": 4}

    one, two = (qtool.quantize(model, threads=n, **options) for n in (1, 2))

    assert ir.to_proto(one.ir).SerializeToString() == ir.to_proto(two.ir).SerializeToString()


def test_the_same_bytes_for_any_number_of_threads(calibrated):
    model, _ = calibrated

    one, two = (qtool.quantize(model, weights="int4", threads=n) for n in (1, 2))

    assert ir.to_proto(one.ir).SerializeToString() == ir.to_proto(two.ir).SerializeToString()


def test_a_layer_without_a_bias_gets_one_for_the_mean(calibrated):
    model, _ = calibrated

    quantized = qtool.quantize(model, weights="int4")

    assert len(next(n for n in quantized.graph if n.op_type == "Conv").inputs) == 3


def test_the_vector_behind_a_matmul_takes_its_shift(calibrated):
    model, _ = calibrated

    quantized = qtool.quantize(model, weights="int4")

    add = next(n for n in quantized.graph if n.op_type == "Add")
    assert not np.array_equal(array(add.inputs[1]), array(model.graph.initializers["b3"]))


def channel_means(model, name, data):
    session = OrtSession(model, outputs=[name])
    outputs = (np.maximum(session.run(x.feeds)[name], 0) for x in data)  # its Relu is in Q
    return np.mean([y.mean((0, 2, 3)) for y in outputs], axis=0)


def test_sequential_correction_restores_the_means_of_channels(calibrated):
    model, data = calibrated
    options = {"weights": "int4", "rounding": "nearest"}

    plain = qtool.quantize(model, **options)
    corrected = qtool.quantize(model, data=data, correct="sequential", **options)

    wanted = channel_means(model, "d", data)
    off = [np.abs(channel_means(q, "d", data) - wanted).mean() for q in (plain, corrected)]
    assert off[1] < 0.5 * off[0]


def test_correction_gives_the_same_bytes_for_any_number_of_threads(calibrated):
    model, data = calibrated

    one, two = (qtool.quantize(model, data=data, threads=n) for n in (1, 2))

    assert ir.to_proto(one.ir).SerializeToString() == ir.to_proto(two.ir).SerializeToString()


def test_correction_without_samples_is_refused(calibrated):
    model, _ = calibrated

    with pytest.raises(UsageError, match="give --data"):
        qtool.quantize(model, correct="sequential")


def test_for_avx2_no_pair_of_products_can_saturate(calibrated):
    model, _ = calibrated

    plain, safe = (qtool.quantize(model, target=target) for target in (None, "avx2"))

    assert any(h.channels for h in hazards(plain))
    assert not any(h.channels for h in hazards(safe))


def test_for_avx2_only_channels_at_risk_lose_a_bit(calibrated):
    model, _ = calibrated

    plain, safe = (qtool.quantize(model, target=target) for target in (None, "avx2"))

    scales = [
        np.concatenate([array(v).ravel() for n, v in q.graph.initializers.items() if "scale" in n])
        for q in (plain, safe)
    ]
    n_changed = int((scales[0] != scales[1]).sum())
    assert 0 < n_changed <= 2 * sum(len(h.channels) for h in hazards(plain))  # weight's and bias's
