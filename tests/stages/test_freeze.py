from __future__ import annotations

import logging
import re

import numpy as np
import onnx_ir as ir
import pytest
from passes.graphs import assert_same_outputs, feeds, ops, parse
from safetensors.numpy import save_file

from qtool import formats
from qtool.data import open_samples
from qtool.errors import FormatError, ModelError, UnsupportedError, UsageError
from qtool.model import Model, fingerprint, opset
from qtool.passes import PASSES
from qtool.runtime.ort import OrtSession
from qtool.stages import freeze as stage
from qtool.stages.freeze import freeze

W = np.arange(24, dtype=np.float32).reshape(6, 4) / 10
C = np.arange(4, dtype=np.float32)
LAYER = """g (float[batch,6] x, float[6,4] w, float[4] c) => (float[batch,4] y)
    { y = Gemm(x, w, c) }"""


@pytest.fixture
def log(caplog):
    logger = logging.getLogger("qtool")
    logger.propagate = True
    caplog.set_level(logging.INFO, logger="qtool")
    return caplog


@pytest.fixture
def checkpoint(tmp_path):
    def write(**arrays):
        path = tmp_path / "checkpoint.npz"
        np.savez(path, **arrays)
        return path

    return write


def test_a_trained_resnet_becomes_convs_alone(sample_models):
    model = formats.load(sample_models / "resnet.train.onnx")

    frozen = freeze(model)

    assert ops(frozen) == {
        "Conv": 8, "Relu": 7, "Add": 3, "GlobalAveragePool": 1, "Flatten": 1, "Gemm": 1,
    }  # fmt: skip
    assert [s.name for s in frozen.inputs()] == ["image"]
    assert [str(s) for s in frozen.outputs()] == [str(s) for s in model.outputs()]


def test_freezing_twice_changes_nothing_more(sample_models):
    frozen = freeze(formats.load(sample_models / "resnet.train.onnx"))

    again = freeze(frozen)

    assert fingerprint(again) == fingerprint(frozen)
    assert again.batch_norm == frozen.batch_norm


def test_the_model_given_is_not_edited(sample_models):
    model = formats.load(sample_models / "resnet.train.onnx")
    before = fingerprint(model)

    freeze(model, dims={"N": 2}, check=False)

    assert fingerprint(model) == before


def test_batch_norm_statistics_are_kept_for_the_tensor_that_it_made():
    model = parse(
        "g (float[N,3,4] x) => (float[N,2,4] y)"
        "{ a = Conv(x, w) h = BatchNormalization(a, g, b, m, v) y = Relu(h) }",
        w=np.ones((2, 3, 1)), g=np.array([-2.0, 3]), b=np.array([0.5, 1]), m=np.zeros(2),
        v=np.ones(2),
    )  # fmt: skip

    frozen = freeze(model)

    assert list(frozen.batch_norm) == ["h"]
    np.testing.assert_array_equal(frozen.batch_norm["h"].mean, [0.5, 1])
    np.testing.assert_array_equal(frozen.batch_norm["h"].std, [2, 3])


def test_batch_norm_statistics_follow_a_factor_that_is_folded_after():
    model = parse(
        "g (float[N,3,4] x) => (float[N,2,4] y)"
        "{ a = Conv(x, w) h = BatchNormalization(a, g, b, m, v) y = Mul(h, k) }",
        w=np.ones((2, 3, 1)), g=np.array([-2.0, 3]), b=np.array([0.5, 1]), m=np.zeros(2),
        v=np.ones(2), k=np.array([[10.0], [-100]]),
    )  # fmt: skip

    frozen = freeze(model)

    assert list(frozen.batch_norm) == ["y"]
    np.testing.assert_array_equal(frozen.batch_norm["y"].mean, [5, -100])
    np.testing.assert_array_equal(frozen.batch_norm["y"].std, [20, 300])


def test_training_nodes_get_their_inference_meaning(rng, log):
    model = parse(
        "g (float[8,2] x) => (float[8,2] y, float[2] rm) {"
        "a, rm, rv = BatchNormalization<training_mode=1>(x, g, b, m, v)"
        "y, mask = Dropout(a, r, t) }",
        opset=15, g=np.ones(2), b=np.zeros(2), m=np.array([1.0, 2]), v=np.array([4.0, 9]),
        r=np.float32(0.5), t=np.array(True),
    )  # fmt: skip
    x = rng.standard_normal((8, 2)).astype(np.float32)

    frozen = freeze(model)

    got = OrtSession(frozen).run({"x": x})
    np.testing.assert_allclose(got["y"], (x - [1, 2]) / np.sqrt([4 + 1e-5, 9 + 1e-5]), rtol=1e-5)
    np.testing.assert_array_equal(got["rm"], [1, 2])
    assert "training nodes were put into inference form" in log.text


def test_batch_statistics_as_outputs_are_refused():
    model = parse(
        "g (float[8,2] x) => (float[8,2] y, float[2] sm)"
        "{ y, rm, rv, sm, sv = BatchNormalization(x, g, b, m, v) }",
        opset=9, g=np.ones(2), b=np.zeros(2), m=np.zeros(2), v=np.ones(2),
    )  # fmt: skip

    with pytest.raises(UnsupportedError, match="'sm' holds batch statistics"):
        freeze(model)


def test_a_checkpoint_is_bound_to_inputs(checkpoint):
    frozen = freeze(parse(LAYER), weights=checkpoint(w=W, c=C))

    assert [str(s) for s in frozen.inputs()] == ["x: float32[batch,6]"]
    assert ops(frozen) == {"Gemm": 1}
    x = np.ones((2, 6), np.float32)
    np.testing.assert_allclose(OrtSession(frozen).run({"x": x})["y"], x @ W + C, rtol=1e-6)


def test_safetensors_and_npz_give_the_same_model(checkpoint, tmp_path):
    save_file({"w": W, "c": C}, tmp_path / "c.safetensors")

    one = freeze(parse(LAYER), weights=checkpoint(w=W, c=C))
    other = freeze(parse(LAYER), weights=tmp_path / "c.safetensors")

    assert fingerprint(one) == fingerprint(other)


def test_a_checkpoint_replaces_initializers_in_their_type(checkpoint):
    model = parse("g (float[N,6] x) => (float[N,4] y) { y = MatMul(x, w) }", w=np.zeros((6, 4)))

    frozen = freeze(model, weights=checkpoint(w=W.astype(np.float64)))

    weight = frozen.graph.initializers["w"].const_value
    assert weight.dtype == ir.DataType.FLOAT
    np.testing.assert_array_equal(weight.numpy(), W)


def test_a_checkpoint_that_does_not_fit_is_listed_whole(checkpoint):
    path = checkpoint(w=W.T, d=C)

    with pytest.raises(ModelError) as caught:
        freeze(parse(LAYER), weights=path)

    assert str(caught.value) == (
        f"the weights of {path} do not fit the model: missing from the file: c; not in the model: "
        "d; of another shape or type: w is [4, 6], the model needs [6, 4]; rename or add them in "
        "the file"
    )


@pytest.mark.parametrize("name", ["damaged.npz", "damaged.safetensors"])
@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no zip", b"\xff" * 64])
def test_a_damaged_checkpoint_is_a_format_error(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)

    with pytest.raises(FormatError, match=re.escape(name)):
        freeze(parse(LAYER), weights=tmp_path / name)


def test_python_objects_in_a_checkpoint_are_refused(checkpoint):
    with pytest.raises(FormatError, match="Python objects"):
        freeze(parse(LAYER), weights=checkpoint(w=np.array([{}], dtype=object)))


def test_inputs_that_look_like_weights_are_mentioned(log):
    freeze(parse(LAYER))

    assert "2 inputs look like weights (w, c); bind them with --weights FILE" in log.text


@pytest.mark.parametrize("name", ["batch", "x:0"])
def test_a_dim_is_set_by_name_or_place(name):
    model = parse("g (float[batch,6] x) => (float[batch,6] y) { a = Neg(x) y = Exp(a) }")

    frozen = freeze(model, dims={name: 3})

    assert [str(s) for s in frozen.inputs()] == ["x: float32[3,6]"]
    assert [str(s) for s in frozen.outputs()] == ["y: float32[3,6]"]


def test_an_unknown_dim_names_the_known_ones():
    model = parse("g (float[batch,6] x) => (float[batch,6] y) { y = Exp(x) }")

    with pytest.raises(UsageError, match="'bacth': did you mean 'batch'. known: batch, x:0"):
        freeze(model, dims={"bacth": 3})


def test_a_fixed_dim_cannot_be_set_otherwise():
    model = parse("g (float[batch,6] x) => (float[batch,6] y) { y = Exp(x) }")

    with pytest.raises(UsageError, match="x:1=3: that dim is fixed at 6"):
        freeze(model, dims={"x:1": 3})


def test_outputs_cut_the_graph():
    model = parse(
        "g (float[N,6] x, float[N,6] z) => (float[N,6] y) { a = Exp(x) b = Neg(a) y = Add(b, z) }"
    )

    frozen = freeze(model, outputs=["b", "a"])

    assert [str(s) for s in frozen.outputs()] == ["b: float32[N,6]", "a: float32[N,6]"]
    assert [s.name for s in frozen.inputs()] == ["x"]
    assert ops(frozen) == {"Exp": 1, "Neg": 1}


def test_an_unknown_output_names_the_closest():
    model = parse("g (float[N,6] x) => (float[N,6] y) { hidden = Exp(x) y = Neg(hidden) }")

    with pytest.raises(UsageError, match="named 'hiden': did you mean 'hidden'"):
        freeze(model, outputs=["hiden"])


def test_old_initializers_as_inputs_become_constants():
    model = parse(
        "g (float[N,6] x, float[6] c) => (float[N,6] y) { y = Add(x, c) }",
        opset=8, ir_version=3, c=np.ones(6),
    )  # fmt: skip

    frozen = freeze(model)

    assert [v.name for v in frozen.graph.inputs] == ["x"]
    assert opset(frozen) == 13


def test_an_opset_before_7_is_refused():
    model = parse("g (float[N,6] x) => (float[N,6] y) { y = Exp(x) }", opset=6)

    with pytest.raises(UnsupportedError, match="uses opset 6"):
        freeze(model, check=False)


def test_an_operator_without_a_newer_form_is_named():
    model = parse(
        "g (float[1,2,3,3] x, float[4] s) => (float[1,2,6,6] y)"
        '{ [up] y = Resize<mode="nearest">(x, s) }',
        opset=10,
    )

    with pytest.raises(
        UnsupportedError, match="node 'up' .Resize, opset 10. has no form at opset 11"
    ):
        freeze(model)


def test_unknown_domains_are_kept_and_not_checked(log):
    model = parse(
        "g (float[N,6] x) => (float[N,6] y) { a = Identity(x) b = custom.Magic(a) y = Relu(b) }"
    )

    frozen = freeze(model)

    assert ops(frozen) == {"Magic": 1, "Relu": 1}
    assert frozen.ir.opset_imports["custom"] == 1
    assert "not checked: onnxruntime cannot load the model" in log.text


FUNCTION = """<ir_version: 8, opset_import: ["" : 12, "local" : 1]>
g (float[N,4] x) => (float[N,4] y) { a = Identity(x) y = local.twice(a) }
<domain: "local", opset_import: ["" : 12]> twice (a) => (b)
{ two = Constant<value_float=2.0>() b = Mul(a, two) }
<domain: "local", opset_import: ["" : 12]> unused (a) => (b) { b = Neg(a) }"""


def test_functions_are_kept_raised_and_dropped_when_unused(rng):
    import onnx.parser

    model = Model(ir.from_proto(onnx.parser.parse_model(FUNCTION)))

    frozen = freeze(model)

    assert [f.name for f in frozen.ir.functions.values()] == ["twice"]
    assert ops(frozen) == {"twice": 1}
    assert_same_outputs(model, frozen, feeds(model, rng))


SUBGRAPH = """g (float[N,4] x, bool c) => (float[N,4] y) {
    outer = Neg(x) k = Constant<value_float=2.0>()
    y = If(c) <then_branch = t () => (float[N,4] r) {
                   i = Identity(outer) j = Mul(i, k) r = Identity(j) },
               else_branch = e () => (float[N,4] r) { r = Identity(outer) }> }"""


@pytest.mark.parametrize("condition", [True, False])
def test_subgraphs_see_the_outer_graph_as_before(condition, rng):
    model = parse(SUBGRAPH)

    frozen = freeze(model)

    assert ops(frozen) == {"Neg": 1, "If": 1, "Mul": 1, "Identity": 1}
    inputs = {"x": rng.standard_normal((2, 4)).astype(np.float32), "c": np.array(condition)}
    assert_same_outputs(model, frozen, inputs)


def test_no_dims_share_a_name_but_those_that_the_inputs_declare():
    model = parse(
        "g (float[N,3,M] x) => (float[N,K,L] y)"
        "{ a = Conv(x, w) b = Conv(a, v) c = ReduceMax<axes=[2]>(b) y = Mul(b, c) }",
        w=np.ones((4, 3, 2)), v=np.ones((4, 4, 2)),
    )  # fmt: skip

    frozen = freeze(model)

    names = {str(d) for n in frozen.graph for d in n.outputs[0].shape if not isinstance(d, int)}
    assert names <= {"N", "M", "K", "L", "None"}


def test_the_largest_difference_is_reported(log):
    freeze(parse("g (float[N,6] x) => (float[N,6] y) { y = Exp(x) }"), seed=3)

    assert "checked output y on 4 random samples: largest difference 0 (relative 0)" in log.messages


def test_given_samples_are_used_for_the_check(log, tmp_path):
    model = parse("g (float[N,6] x) => (float[N,6] y) { y = Exp(x) }")
    np.savez(tmp_path / "d.npz", x=np.ones((2, 6), np.float32))

    freeze(model, data=open_samples(str(tmp_path / "d.npz"), model.inputs()))

    assert "checked output y on 2 given samples" in log.text


def test_a_pass_that_changes_the_outputs_is_caught(monkeypatch):
    def wrong(model):
        broken = model.copy()
        for node in broken.graph:
            node.op_type = "Abs"
        return broken if any(n.op_type != "Abs" for n in model.graph) else model

    monkeypatch.setitem(PASSES, "wrong", wrong)

    with pytest.raises(ModelError, match="freezing changed output 'y'"):
        freeze(parse("g (float[N,6] x) => (float[N,6] y) { y = Neg(x) }"), passes=["wrong"])


def test_a_large_model_is_checked_on_request_only(monkeypatch, log):
    monkeypatch.setattr(stage, "CHECK_BYTES", -1)
    model = parse("g (float[N,6] x) => (float[N,6] y) { y = Exp(x) }")

    freeze(model)
    assert "not checked, for the model is larger than 1 GB" in log.text
    assert "checked output" not in log.text
    freeze(model, check=True)
    assert "checked output" in log.text


def test_only_the_passes_named_run():
    model = parse(
        "g (float[N,6] x) => (float[N,6] y) { a = Identity(x) b = Neg(a) c = Abs(a) y = Neg(b) }"
    )

    assert ops(freeze(model, passes=["remove-unused"])) == {"Identity": 1, "Neg": 2}
    assert ops(freeze(model, passes=["remove-identities"])) == {"Neg": 2, "Abs": 1}


def test_history_says_how_to_do_it_again(checkpoint):
    frozen = freeze(parse(LAYER), weights=(path := checkpoint(w=W, c=C)), dims={"batch": 2})

    (step,) = frozen.history
    assert step.command == "freeze"
    assert step.options == {"weights": str(path), "dims": {"batch": 2}}


RESULTS = {  # zoo model: what is left of it
    "resnet20-cifar10/model_unfused_bn": {
        "Conv": 19, "Relu": 19, "Add": 9, "Slice": 4, "Pad": 2, "AveragePool": 1, "Flatten": 1,
        "Gemm": 1,
    },
    "mlperf-tiny-fc-autoencoder-ad/model": {"Gemm": 10, "Relu": 9},
    "mnist-cntk/model": {"Conv": 2, "Relu": 2, "MaxPool": 2, "Reshape": 1, "Gemm": 1},
    "fashion-cnn/model": {"Conv": 2, "Relu": 3, "MaxPool": 2, "Flatten": 1, "Gemm": 2},
    "mobilenet_v1_0.75_224/model": {
        "Conv": 28, "Clip": 27, "GlobalAveragePool": 1, "Reshape": 1, "Softmax": 1,
    },
    "ppocrv4-det/model": {
        "Conv": 62, "Add": 25, "Mul": 14, "HardSwish": 24, "Relu": 12, "GlobalAveragePool": 10,
        "HardSigmoid": 10, "Resize": 6, "ConvTranspose": 2, "Concat": 1, "Sigmoid": 1,
    },
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", RESULTS)
def test_a_zoo_model_becomes_what_it_is_made_of(zoo, name):
    frozen = freeze(formats.load(zoo / "models" / f"{name}.onnx"))

    assert ops(frozen) == RESULTS[name]
