from __future__ import annotations

import json
from dataclasses import replace

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from quant.graphs import conv_net, model_of

from qtool.errors import UsageError
from qtool.formats import load
from qtool.model import Model, Statistics, Step, add_initializer, fingerprint
from qtool.stages.inspect import StatisticsSummary, inspect

BRANCHES = """
net (bool c, float[2] x) => (float[2] y) {
    a = Neg(x)
    y = If(c) <then_branch = yes () => (float[2] t) { u = Exp(a) t = Neg(u) },
               else_branch = no () => (float[2] e) { e = Abs(a) }>
}
"""


def with_weight(tensor, **flags):
    """Return what inspect says of a constant."""
    model = model_of("g (float[2] x) => (float[2] y) { y = Relu(x) }")
    add_initializer(model.graph, "w", tensor)
    return inspect(model, **flags).weights[0]


def test_ops_are_counted_in_subgraphs_too():
    assert inspect(model_of(BRANCHES)).ops == {"Abs": 1, "Exp": 1, "If": 1, "Neg": 2}


def test_inputs_and_outputs_have_types_and_shapes(rng):
    found = inspect(conv_net(rng))

    assert [(p.name, p.dtype, p.shape) for p in (*found.inputs, *found.outputs)] == [
        ("x", "float32", ("n", 3, 8, 8)),
        ("y", "float32", ("n", 5)),
    ]


def test_an_input_with_a_default_is_a_weight():
    model = model_of("g (float[2] x, float[2] w) => (float[2] y) { y = Add(x, w) }")
    default = next(v for v in model.graph.inputs if v.name == "w")
    default.const_value = ir.Tensor(np.zeros(2, np.float32))
    model.graph.register_initializer(default)

    found = inspect(model)

    assert ([p.name for p in found.inputs], [w.name for w in found.weights]) == (["x"], ["w"])


def test_parameters_are_weights_and_biases(rng):
    shapes = (4 * 3 * 3 * 3, 4, 4 * 4 * 3 * 3, 4, 64 * 5, 5)

    assert inspect(conv_net(rng)).n_parameters == sum(shapes)


def test_scales_zero_points_and_shapes_are_no_parameters():
    model = model_of(
        "g (int8[2,2] w, float s, int8 z, int64[1] n) => (float[a] y) "
        "{ r = DequantizeLinear(w, s, z) y = Reshape(r, n) }",
        w=np.ones((2, 2), np.int8),
        s=np.array(1, np.float32),
        z=np.array(0, np.int8),
        n=np.array([4]),
    )

    assert inspect(model).n_parameters == 4


def test_bytes_are_summed_by_type(rng):
    found = inspect(conv_net(rng))

    assert found.by_dtype() == {"float32": (6, found.n_parameters, found.weight_bytes)}


def test_macs_are_of_one_sample(rng):
    convs, gemm = 4 * 64 * 27 + 4 * 64 * 36, 64 * 5

    assert inspect(conv_net(rng)).macs == convs + gemm


def test_macs_are_of_the_dims_that_are_set(rng):
    assert inspect(conv_net(rng), dims={"n": 3}).macs == 3 * inspect(conv_net(rng)).macs


def test_a_dim_that_no_input_has_is_refused(rng):
    with pytest.raises(UsageError, match="no input has a dim named 'm'; dims with a name: n"):
        inspect(conv_net(rng), dims={"m": 1})


def test_values_are_counted_only_when_asked_for():
    assert with_weight(np.array([0.0, 1.0], np.float32)).n_distinct is None


def test_distinct_values_and_zeros_are_counted():
    found = with_weight(np.array([0, 0, 1, 2], np.float32), values=True)

    assert (found.n_distinct, found.zeros) == (3, 0.5)


def test_values_of_4_bits_are_counted():
    found = with_weight(np.array([0, 0, -8, 7], ml_dtypes.int4), values=True)

    assert (found.n_distinct, found.zeros, found.n_bytes) == (3, 0.5, 2)


def test_values_of_too_large_a_weight_are_not_read():
    class Untouchable(ir.ExternalTensor):
        def tobytes(self):
            raise AssertionError("a large weight was read")

        numpy = tobytes

    dims = ir.Shape([1 << 20, 1 << 10])
    found = with_weight(
        Untouchable("no-file", 0, 1, ir.DataType.FLOAT, shape=dims, name="w"), values=True
    )

    assert (found.n_distinct, found.n_bytes) == (None, 1 << 32)


def test_strings_are_no_numbers():
    tensor = ir.StringTensor([b"a", b"b"], shape=ir.Shape([2]), name="w")

    assert with_weight(tensor, values=True).n_distinct is None


def test_history_and_preprocessing_are_shown(rng):
    model = replace(conv_net(rng), history=(Step("freeze", {"a": 1}, "9"),), preprocess={"b": 2})

    found = inspect(model)

    assert (found.history, found.preprocess) == (
        ({"command": "freeze", "options": {"a": 1}, "version": "9"},),
        {"b": 2},
    )


@pytest.mark.parametrize("mine", [True, False])
def test_statistics_are_known_to_be_of_this_model(rng, mine):
    model = conv_net(rng)
    known = Statistics(fingerprint(model) if mine else "other", "random", 7, ("1/2",))

    found = inspect(replace(model, statistics=known)).statistics

    assert found == StatisticsSummary("random", 7, ("1/2",), 0, 0, mine)


def test_an_inspection_is_json(rng):
    made = json.loads(json.dumps(inspect(conv_net(rng), values=True).to_json(), allow_nan=False))

    assert (made["ops"]["Conv"], made["layers"][0]["macs"]) == (2, 6912)


def test_a_model_without_nodes_is_inspected():
    x = ir.val("x", ir.DataType.FLOAT, [2])
    empty = Model(ir.Model(ir.Graph([x], [x], nodes=[], opset_imports={"": 17}), ir_version=9))

    found = inspect(empty)

    assert (found.macs, found.n_parameters, found.ops) == (0, 0, {})


def test_every_zoo_model_is_inspected(zoo):
    for path in sorted(zoo.glob("models/*/*.onnx")):
        found = inspect(load(path))

        assert found.n_parameters > 0, path
        assert json.dumps(found.to_json(), allow_nan=False), path
