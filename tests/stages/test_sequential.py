from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper, numpy_helper

import qtool
from qtool.data import open_samples
from qtool.errors import UsageError
from qtool.formats import load
from qtool.model import array
from qtool.runtime.native import Session
from qtool.runtime.ort import OrtSession


@pytest.fixture
def network(tmp_path, rng):
    """Five layers, two of them depthwise, on correlated inputs."""

    def weight(name, *shape, shift=0.0):
        values = rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:])) + shift
        return numpy_helper.from_array(values.astype(np.float32), name)

    names = ["x"]
    nodes, weights = [], []
    shapes = {"a": (16, 3, 3, 3), "b": (16, 1, 3, 3), "c": (24, 16, 1, 1), "d": (24, 1, 3, 3)}
    for name, shape in shapes.items():
        group = shape[0] if shape[1] == 1 else 1
        pads = [shape[2] // 2] * 4
        nodes.append(helper.make_node("Conv", [names[-1], f"w{name}", f"v{name}"], [f"{name}0"],
                                      group=group, pads=pads))  # fmt: skip
        nodes.append(helper.make_node("Relu", [f"{name}0"], [name]))
        weights += [weight(f"w{name}", *shape, shift=0.1 if group > 1 else 0.0)]
        weights.append(weight(f"v{name}", shape[0]))
        names.append(name)
    nodes += [
        helper.make_node("GlobalAveragePool", ["d"], ["e"]),
        helper.make_node("Flatten", ["e"], ["f"]),
        helper.make_node("Gemm", ["f", "wy", "vy"], ["y"], transB=1),
    ]
    weights += [weight("wy", 10, 24), weight("vy", 10)]
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("x", 1, ["n", 3, 12, 12])],
        [helper.make_tensor_value_info("y", 1, ["n", 10])], weights,
    )  # fmt: skip
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.save(made, tmp_path / "m.onnx")
    mixed = np.einsum("nchw,cd->ndhw", rng.standard_normal((96, 3, 12, 12)), rng.random((3, 3)))
    x = np.cumsum(mixed, axis=3).astype(np.float32)
    parts = []
    model = load(tmp_path / "m.onnx")
    for name, part in (("fit", x[:64]), ("test", x[64:])):
        np.savez(tmp_path / f"{name}.npz", x=part)
        parts.append(open_samples(str(tmp_path / f"{name}.npz"), model.inputs()))
    return model, *parts


def error(model, quantized, data):
    sessions = [OrtSession(one) for one in (model, quantized)]
    outputs = [np.concatenate([s.run(x.feeds)["y"] for x in data]) for s in sessions]
    return float(np.square(outputs[0] - outputs[1]).mean())


@pytest.mark.parametrize("weights", ["int4", "int3"])
def test_layers_fitted_in_turn_err_less_on_other_samples(network, weights):
    model, fitted, others = network

    apart = qtool.quantize(model, data=fitted, weights=weights, rounding="descent")
    in_turn = qtool.quantize(model, data=fitted, weights=weights)

    assert error(model, in_turn, others) < 0.8 * error(model, apart, others)


@pytest.mark.parametrize("options", [{}, {"weight_symmetric": True}, {"weights": "uint4"}])
def test_the_same_bytes_for_any_number_of_threads(network, options):
    model, fitted, _ = network
    options = {"weights": "int4", **options}

    one, two = (qtool.quantize(model, data=fitted, threads=n, **options) for n in (1, 2))

    assert ir.to_proto(one.ir).SerializeToString() == ir.to_proto(two.ir).SerializeToString()


def zero_points(quantized):
    nodes = [n for n in quantized.graph if n.op_type == "DequantizeLinear" and len(n.inputs) > 2]
    fours = [n for n in nodes if n.inputs[2].dtype == ir.DataType.INT4]
    return [array(n.inputs[2]).astype(int) for n in fours]


def test_channels_of_few_bits_get_zero_points_unless_symmetric(network):
    model, fitted, _ = network

    free, symmetric = (
        qtool.quantize(model, data=fitted, weights="int4", weight_symmetric=given)
        for given in (None, True)
    )

    assert any(zero.any() for zero in zero_points(free))
    assert not any(zero.any() for zero in zero_points(symmetric))


def test_zero_points_of_4_bits_run_natively_as_they_do_in_onnxruntime(network):
    model, fitted, others = network

    quantized = qtool.quantize(model, data=fitted, weights="int4")

    native, reference = Session(quantized), OrtSession(quantized)
    for sample in others:
        made = native.run(["y"], sample.feeds)[0]
        np.testing.assert_allclose(made, reference.run(sample.feeds)["y"], atol=0.02)


def test_sequential_rounding_without_samples_is_refused(network):
    with pytest.raises(UsageError, match="give --data"):
        qtool.quantize(network[0], rounding="sequential")
