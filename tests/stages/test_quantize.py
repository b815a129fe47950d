from __future__ import annotations

import json
from typing import NamedTuple

import numpy as np
import onnx
import pytest
from quant.graphs import conv_net, model_of, ops

from qtool import formats
from qtool.data import open_samples
from qtool.errors import ModelError, UnsupportedError, UsageError
from qtool.model import array
from qtool.qparams import dequantize
from qtool.quant.coverage import REASON_KEY, coverage
from qtool.quant.qdq_constants import read_qparams
from qtool.runtime.ort import OrtSession
from qtool.stages.calibrate import calibrate
from qtool.stages.quantize import quantize
from qtool.stages.quantize_options import Options


class Net(NamedTuple):
    model: object
    x: np.ndarray
    samples: object


@pytest.fixture
def net(rng, tmp_path) -> Net:
    model = conv_net(rng)
    x = rng.normal(size=(32, 3, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "x.npz", x=x)
    return Net(model, x, open_samples(str(tmp_path / "x.npz"), model.inputs()))


def run(model, x):
    return next(iter(OrtSession(model).run({"x": x}).values()))


def sqnr(reference, found):
    return 10 * np.log10(np.mean(reference**2) / np.mean((reference - found) ** 2))


@pytest.mark.parametrize("activations", ["uint8", "int8", "uint16", "int16"])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("form", ["qdq", "qoperator"])
def test_static_computes_nearly_the_same(net, activations, symmetric, form):
    if form == "qoperator" and activations.endswith("16"):
        pytest.skip("onnxruntime has no such QOperator; the command line refuses it")
    options = {"activations": activations, "activation_symmetric": symmetric, "format": form}

    result = quantize(net.model, data=net.samples, **options)

    assert sqnr(run(net.model, net.x), run(result, net.x)) > 20


@pytest.mark.parametrize("weights", ["int8", "uint8", "int4", "uint4"])
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("mode", ["static", "weight-only"])
def test_weights_of_every_type_compute_nearly_the_same(net, weights, per_channel, mode):
    options = {"weights": weights, "per_channel": per_channel, "weight_symmetric": True}

    result = quantize(net.model, data=net.samples, mode=mode, **options)

    bound = 20 if weights.endswith("8") else 5
    assert sqnr(run(net.model, net.x), run(result, net.x)) > bound


def test_auto_without_statistics_quantizes_matmul_dynamically_and_other_weights(net, caplog):
    caplog.set_level("INFO", "qtool")

    result = quantize(net.model)

    assert {"MatMulInteger", "DynamicQuantizeLinear", "Conv"} <= set(ops(result))
    assert coverage(result).by_bytes.weights_fraction > 0.5
    assert "--data SAMPLES" in caplog.text


@pytest.mark.onnxruntime("1.24")
def test_dynamic_makes_integer_convolutions_and_warns(net, caplog):
    result = quantize(net.model, mode="dynamic")

    assert ops(result).count("ConvInteger") == 2
    assert "static quantization does not have this problem" in caplog.text


def test_a_node_left_in_float_carries_the_reason(net):
    result = quantize(net.model, data=net.samples, exclude=("Gemm",))

    gemm = next(n for n in result.graph if n.op_type == "Gemm")
    assert gemm.metadata_props[REASON_KEY] == "--exclude Gemm"


def test_the_statistics_of_another_model_are_refused(net, rng):
    other = calibrate(conv_net(np.random.default_rng(1)), data=net.samples)

    with pytest.raises(ModelError, match="of another model"):
        quantize(net.model, statistics=other.statistics)


def test_static_without_statistics_says_what_is_needed(net):
    with pytest.raises(UsageError, match="give --data, or run qtool calibrate first"):
        quantize(net.model, mode="static")


def test_a_model_with_nothing_to_quantize_is_refused(rng, tmp_path):
    model = model_of("net (float[1,4] x) => (float[1,4] y) { y = Sqrt(x) }")
    np.savez(tmp_path / "x.npz", x=np.ones((2, 4), np.float32))
    samples = open_samples(str(tmp_path / "x.npz"), model.inputs())

    with pytest.raises(UnsupportedError, match="1 x Sqrt has no integer form"):
        quantize(model, data=samples)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "statik"}, "did you mean 'static'"),
        ({"range": "mes"}, "did you mean 'mse'"),
        ({"weights": "int16"}, "no weight type named 'int16'"),
        ({"format": "qoperator", "activations": "int16"}, "use --format qdq"),
        ({"mode": "static", "block_size": 32}, "goes with --mode weight-only"),
    ],
)
def test_options_that_cannot_be_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        Options(**options)


def test_the_argument_is_not_edited(net):
    before = ops(net.model)

    quantize(net.model, data=net.samples)

    assert ops(net.model) == before


def test_history_and_statistics_travel_on(net):
    result = quantize(net.model, data=net.samples, activations="int8")

    assert [s.command for s in result.history] == ["calibrate", "quantize"]
    assert result.history[-1].options == {"activations": "int8"}
    assert result.statistics is not None


def test_the_command_writes_the_model_and_prints_its_coverage(net, cli, tmp_path):
    formats.save(net.model, tmp_path / "m.onnx")

    result = cli(
        "quantize", "-i", tmp_path / "m.onnx", "--data", tmp_path / "x.npz",
        "-o", tmp_path / "q.onnx", "--json",
    )  # fmt: skip

    assert result.exit_code == 0
    assert json.loads(result.stdout)["macs"]["fraction"] == 1.0
    assert "Gemm" in ops(formats.load(tmp_path / "q.onnx"))


def test_too_little_coverage_is_exit_code_3_and_writes_nothing(net, cli, tmp_path):
    formats.save(net.model, tmp_path / "m.onnx")

    result = cli(
        "quantize", "-i", tmp_path / "m.onnx", "--data", tmp_path / "x.npz", "--exclude", "Conv",
        "-o", tmp_path / "q.onnx", "--min-coverage", "95%",
    )  # fmt: skip

    assert result.exit_code == 3
    assert "95 % are needed" in result.stderr
    assert not (tmp_path / "q.onnx").exists()


def test_a_pattern_that_matches_nothing_is_wrong_usage(net, cli, tmp_path):
    formats.save(net.model, tmp_path / "m.onnx")

    result = cli(
        "quantize", "-i", tmp_path / "m.onnx", "-o", tmp_path / "q.onnx", "--exclude", "haed.*"
    )

    assert result.exit_code == 2
    assert "--exclude 'haed.*' matches no node" in result.stderr


@pytest.mark.parametrize("threads", [1, 2])
def test_the_bytes_do_not_depend_on_the_number_of_threads(net, tmp_path, threads):
    formats.save(quantize(net.model, data=net.samples, threads=threads), tmp_path / "a.qtm")
    formats.save(quantize(net.model, data=net.samples, threads=1), tmp_path / "b.qtm")

    assert (tmp_path / "a.qtm").read_bytes() == (tmp_path / "b.qtm").read_bytes()


def test_an_embedding_is_quantized_with_the_range_of_its_table(rng, tmp_path):
    model = model_of(
        """
        net (int64[n] ids, float[9, 8] table, float[8, 4] w, float[4, 2] v) => (float[n, 2] y) {
            e = Gather(table, ids)
            h = MatMul(e, w)
            y = MatMul(h, v)
        }
        """,
        table=rng.normal(size=(9, 8)).astype(np.float32),
        w=rng.normal(size=(8, 4)).astype(np.float32),
        v=rng.normal(size=(4, 2)).astype(np.float32),
    )
    ids = np.zeros((4, 1), np.int64)  # the calibration data uses one row of the table only
    np.savez(tmp_path / "x.npz", ids=ids[:, 0])

    result = quantize(model, data=open_samples(str(tmp_path / "x.npz"), model.inputs()))

    gather = next(n for n in result.graph if n.op_type == "Gather")
    table = gather.inputs[0].producer()
    found = dequantize(array(table.inputs[0]), read_qparams(table))
    assert array(table.inputs[0]).dtype == np.uint8
    np.testing.assert_allclose(found, array(model.graph.initializers["table"]), atol=0.02)


def test_static_gives_recurrent_layers_integer_weights(rng, tmp_path):
    model = model_of(
        """
        net (float[t, 1, 8] x, float[8, 8] m, float[1, 32, 8] w, float[1, 32, 8] r)
            => (float[t, 1, 1, 8] y) {
            a = MatMul(x, m)
            y = LSTM<hidden_size = 8>(a, w, r)
        }
        """,
        m=rng.normal(size=(8, 8)).astype(np.float32),
        w=rng.normal(size=(1, 32, 8)).astype(np.float32),
        r=rng.normal(size=(1, 32, 8)).astype(np.float32),
    )
    np.savez(tmp_path / "x.npz", x=rng.normal(size=(16, 1, 8)).astype(np.float32))

    result = quantize(model, data=open_samples(str(tmp_path / "x.npz"), model.inputs()))

    assert coverage(result).by_bytes.weights_fraction == 1.0


def test_random_samples_are_warned_of(net, caplog):
    quantize(net.model, data=open_samples(None, net.model.inputs(), random=True, samples=2))

    assert "the ranges come from random samples" in caplog.text


@pytest.mark.parametrize("mode", ["auto", "dynamic", "weight-only"])
def test_qoperator_is_for_static_only(net, mode):
    with pytest.raises(UsageError, match="give --data or statistics"):
        quantize(net.model, mode=mode, format="qoperator")


def weight_types(model):
    found = {}
    for node in model.graph:
        if node.op_type in ("Conv", "Gemm"):
            made = node.inputs[1].producer()
            source = None if made is None else made.inputs[0].dtype
            found[node.outputs[0].name] = "float" if source is None else source.name.lower()
    return found


@pytest.mark.parametrize("mode", ["static", "weight-only"])
def test_a_layer_has_the_type_that_is_given_for_it(net, mode):
    data = {"data": net.samples} if mode == "static" else {}

    result = quantize(net.model, mode=mode, **data, layers=("d=w4", "g=float"), block_size=None)

    assert list(weight_types(result).values()) == ["int8", "int4", "float"]
    assert sqnr(run(net.model, net.x), run(result, net.x)) > 15


def test_a_type_for_layers_that_stay_in_float_is_said_to_change_nothing(net, caplog):
    quantize(net.model, data=net.samples, layers=("d=w4", "y=a16"), exclude=("y",))

    said = [r.message for r in caplog.records if "changes nothing" in r.message]
    assert said == ["--layer y=a16 changes nothing: y: --exclude y"]


def test_16_bit_activations_of_one_layer_are_what_it_reads(net):
    result = quantize(net.model, data=net.samples, layers=("d=a16",))

    dequantizers = [n.inputs[0].producer() for n in result.graph if n.op_type in ("Conv", "Add")]
    assert [read_qparams(node).dtype for node in dequantizers] == ["uint8", "uint16", "uint8"]
    assert sqnr(run(net.model, net.x), run(result, net.x)) > 20


def test_dynamic_takes_only_float_for_a_layer():
    with pytest.raises(UsageError, match="can only say float"):
        Options(mode="dynamic", layers=("d=w4",))


def test_patterns_of_a_file_are_excluded(net, tmp_path, cli):
    formats.save(net.model, tmp_path / "m.onnx")
    np.savez(tmp_path / "x.npz", x=net.x)
    (tmp_path / "bad.txt").write_text("# the worst layers\nd\n")
    (tmp_path / "types.txt").write_text("a=w4\n")

    done = cli("quantize", "-i", tmp_path / "m.onnx", "--data", tmp_path / "x.npz",
               "--exclude-from", tmp_path / "bad.txt", "--layers-from", tmp_path / "types.txt",
               "-o", tmp_path / "q.onnx")  # fmt: skip

    assert done.exit_code == 0, done.stderr
    found = weight_types(formats.load(tmp_path / "q.onnx"))
    assert list(found.values())[:2] == ["int4", "float"]


@pytest.mark.parametrize("options", [{"only": ("Conv",)}, {"exclude": ("MaxPool",)}])
def test_calibration_on_the_way_sees_what_a_selection_needs(rng, tmp_path, options):
    """The MaxPool in float passes no range on: the Conv behind it needs one of its own."""
    model = model_of(
        """
        net (float[1, 4, 8, 8] x, float[4,4,1,1] w) => (float[1, 4, 4, 4] y) {
            p = MaxPool<kernel_shape = [2,2], strides = [2,2]>(x)
            c = Conv(p, w)
            y = Relu(c)
        }
        """,
        w=rng.normal(size=(4, 4, 1, 1)).astype(np.float32),
    )
    np.savez(tmp_path / "x.npz", x=rng.normal(size=(4, 4, 8, 8)).astype(np.float32))
    data = open_samples(str(tmp_path / "x.npz"), model.inputs())

    result = quantize(model, data=data, threads=1, **options)

    assert coverage(result).by_macs.fraction == 1


def in_a_branch(rng):
    """A model all of whose weights are in the branches of an If."""
    from onnx import helper

    def branch(name):
        w = helper.make_tensor(f"w_{name}", 1, [64, 64], rng.normal(size=4096).astype(np.float32))
        node = helper.make_node("MatMul", ["x", w.name], [f"y_{name}"])
        output = helper.make_tensor_value_info(f"y_{name}", 1, ["n", 64])
        return helper.make_graph([node], name, [], [output], [w])

    node = helper.make_node("If", ["c"], ["y"], then_branch=branch("a"), else_branch=branch("b"))
    graph = helper.make_graph(
        [node], "g",
        [helper.make_tensor_value_info("x", 1, ["n", 64]),
         helper.make_tensor_value_info("c", 9, [])],
        [helper.make_tensor_value_info("y", 1, ["n", 64])],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@pytest.fixture
def branches(rng, tmp_path):
    onnx.save(in_a_branch(rng), tmp_path / "if.onnx")
    x = rng.normal(size=(4, 64)).astype(np.float32)
    np.savez(tmp_path / "if.npz", x=x, c=np.ones(4, bool))
    model = formats.load(tmp_path / "if.onnx")
    return model, open_samples(str(tmp_path / "if.npz"), model.inputs())


def test_where_nothing_can_be_static_auto_stores_weights(branches, caplog):
    model, data = branches

    result = quantize(model, data=data)

    assert coverage(result).by_bytes.weights_fraction == 1.0
    assert "no node can be quantized" in caplog.text


def test_where_nothing_can_be_static_that_mode_says_what_can(branches):
    model, data = branches

    with pytest.raises(UnsupportedError, match="--mode weight-only stores weights"):
        quantize(model, data=data, mode="static")
