from __future__ import annotations

import json

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
from quant.graphs import conv_net, model_of, node

from qtool.errors import CheckFailed
from qtool.formats import load, save
from qtool.quant.coverage import REASON_KEY, Coverage, NodeCoverage, Share, coverage
from qtool.quant.integer_form import form_of

PARAMETERS = "float s, uint8 z, float t, int8 v, float u, uint8 o"
VALUES = {
    "s": np.array(0.5, np.float32),
    "z": np.array(3, np.uint8),
    "t": np.array(0.25, np.float32),
    "v": np.array(0, np.int8),
    "u": np.array(0.125, np.float32),
    "o": np.array(0, np.uint8),
    "w": np.ones((2, 3, 1, 1), np.int8),
}


def graph(body, x="float[1,3,4,4] x", y="uint8[1,2,4,4] y", **more):
    """Return a model with scales s, t, u, their zero points z, v, o, and a weight w."""
    values = VALUES | more
    types = {np.int8: "int8", np.int32: "int32", np.float32: "float", np.uint8: "uint8"}
    dims = {k: ",".join(map(str, v.shape)) for k, v in values.items() if v.shape}
    weights = ", ".join(f"{types[values[k].dtype.type]}[{d}] {k}" for k, d in dims.items())
    return model_of(f"g ({x}, {PARAMETERS}, {weights}) => ({y}) {{ {body} }}", **values)


INPUT = "xq = QuantizeLinear(x, s, z) xr = DequantizeLinear(xq, s, z) "
WEIGHT = "wr = DequantizeLinear(w, t, v) "
OUTPUT = "y = QuantizeLinear(c, u, o) "
PAIRED = INPUT + WEIGHT + "c = Conv(xr, wr) " + OUTPUT


def found(model, output="c"):
    """Return the form and the reason of the node that makes a tensor."""
    form = form_of(node(model, output))
    return form.name, form.reason


def test_a_conv_between_dq_and_q_computes_in_integers():
    assert found(graph(PAIRED)) == ("integer", "")


def test_a_conv_without_q_behind_it_has_integer_weights_only():
    model = graph(PAIRED.replace(OUTPUT, "y = Exp(c)"), y="float[1,2,4,4] y")

    assert found(model) == ("weights", "its output 'c' is not quantized")


def test_a_conv_that_is_a_float_output_of_the_model_says_so():
    model = graph(INPUT + WEIGHT + "y = Conv(xr, wr)", y="float[1,2,4,4] y")

    assert found(model, "y") == ("weights", "its output 'y' is a float output of the model")


def test_a_conv_on_a_float_input_has_integer_weights_only():
    model = graph(WEIGHT + "c = Conv(x, wr) " + OUTPUT)

    assert found(model) == ("weights", "its input 'x' is not quantized")


def test_a_conv_with_a_float_weight_is_float():
    body = INPUT + "c = Conv(xr, w) " + OUTPUT
    model = graph(body, w=np.ones((2, 3, 1, 1), np.float32))

    assert found(model) == ("float", "its constant 'w' is in float")


def test_a_weight_computed_at_run_time_is_named():
    model = model_of("g (float[1,3,4,4] x, float[2,3,1,1] w) => (float[a,b,c,d] y) {y=Conv(x, w)}")

    assert found(model, "y") == ("float", "its weight is computed at run time")


def test_a_weight_that_training_quantizes_counts_as_integers():
    body = INPUT + "wq = QuantizeLinear(w, t, v) wr = DequantizeLinear(wq, t, v) c = Conv(xr, wr) "
    model = graph(body + OUTPUT, w=np.ones((2, 3, 1, 1), np.float32))

    assert found(model) == ("integer", "")


def test_a_scale_along_the_depth_does_not_leave_the_sum():
    model = graph(
        PAIRED.replace("DequantizeLinear(w, t, v)", "DequantizeLinear<axis = 1>(w, d, e)"),
        d=np.ones(3, np.float32),
        e=np.zeros(3, np.int8),
    )

    assert found(model) == (
        "weights",
        "the scales of 'wr' change along the depth that is summed over",
    )


def test_an_int8_input_with_a_uint8_weight_has_no_kernel():
    body = (
        "xq = QuantizeLinear(x, t, v) xr = DequantizeLinear(xq, t, v) "
        "wr = DequantizeLinear(w, s, z) c = Conv(xr, wr) y = QuantizeLinear(c, u, v) "
    )
    model = graph(body, y="int8[1,2,4,4] y", w=np.ones((2, 3, 1, 1), np.uint8))

    assert found(model)[1] == "no integer kernel multiplies an int8 input with a uint8 weight"


def test_input_and_output_of_different_types_do_not_fuse():
    model = graph(PAIRED.replace(OUTPUT, "y = QuantizeLinear(c, t, v)"), y="int8[1,2,4,4] y")

    assert found(model) == ("weights", "its input is uint8 and its output int8")


@pytest.mark.parametrize(
    ("clamp", "scale", "expected"),
    [
        ("Relu(c)", 0.125, "integer"),
        ("Clip(c, lo, hi)", 6 / 255, "integer"),
        ("Clip(c, lo, hi)", 7 / 255, "weights"),
    ],
)
def test_a_clamp_folds_where_the_range_repeats_it(clamp, scale, expected):
    body = INPUT + WEIGHT + f"c = Conv(xr, wr) r = {clamp} y = QuantizeLinear(r, k, o)"
    limits = {"lo": np.float32(0), "hi": np.float32(6), "k": np.float32(scale)}
    text = f"g (float[1,3,4,4] x, {PARAMETERS}, int8[2,3,1,1] w, float lo, float hi, float k) "
    model = model_of(text + f"=> (uint8[1,2,4,4] y) {{ {body} }}", **VALUES, **limits)

    assert (found(model)[0], found(model, "r")[0] == "integer") == (
        expected,
        expected == "integer",
    )


def test_a_relu_before_an_asymmetric_range_is_named():
    model = graph(PAIRED.replace(OUTPUT, "r = Relu(c) y = QuantizeLinear(r, s, z)"))

    assert found(model)[1] == "the range of 'r' does not replace its Relu"


GEMM = (
    "g (float[2,3] x, float s, uint8 z, float t, int8 v, float u, uint8 o, int8[3,4] w, "
    "float[4] b) => (float[2,4] y) { xq = QuantizeLinear(x, s, z) xr = DequantizeLinear(xq, s, z) "
    "wr = DequantizeLinear(w, t, v) BODY }"
)


def gemm(body, **more):
    values = VALUES | {"w": np.ones((3, 4), np.int8), "b": np.ones(4, np.float32)} | more
    return model_of(GEMM.replace("BODY", body), **values)


@pytest.mark.parametrize("op", ["Gemm", "MatMul"])
def test_accumulators_may_become_the_float_output(op):
    assert found(gemm(f"y = {op}(xr, wr)"), "y") == ("integer", "")


def test_the_bias_added_to_a_matmul_is_part_of_it():
    model = gemm("m = MatMul(xr, wr) y = Add(m, b)")

    assert (found(model, "m"), found(model, "y")) == (("integer", ""), ("integer", ""))


def test_a_float_op_behind_a_gemm_stays_float():
    model = gemm("m = Gemm(xr, wr) y = Softmax(m)")

    assert found(model, "y") == ("float", "its input 'm' is not quantized")


def test_nodes_that_move_elements_let_integers_through():
    model = gemm(
        "r = Reshape(xr, shape) y = Gemm(r, wr)".replace("Reshape(xr, shape)", "Flatten(xr)")
    )

    assert (found(model, "r"), found(model, "y")) == (("integer", ""), ("integer", ""))


def test_operands_of_different_types_do_not_add():
    body = INPUT + "cr = DequantizeLinear(k, t, v) c = Add(xr, cr) " + OUTPUT
    model = graph(body, y="uint8[1,3,4,4] y", k=np.ones((3, 1, 1), np.int8))

    assert found(model) == ("float", "its inputs are uint8 and int8")


@pytest.mark.parametrize(
    ("behind", "expected"),
    [
        ("y = QuantizeLinear(c, s, z)", "integer"),
        ("e = Exp(c) y = QuantizeLinear(e, s, z)", "float"),
    ],
)
def test_a_concat_is_integer_where_its_output_is(behind, expected):
    model = graph(INPUT + f"c = Concat<axis = 0>(xr, xr) {behind}", y="uint8[2,3,4,4] y")

    assert found(model)[0] == expected


def test_a_node_that_lacks_an_input_is_float():
    model = graph(PAIRED)
    node(model, "c").resize_inputs(1)

    assert found(model) == ("float", "it lacks an input")


def test_a_move_between_different_scales_is_float():
    body = INPUT + "c = Transpose<perm = [0,1,3,2]>(xr) y = QuantizeLinear(c, u, o)"
    model = graph(body, y="uint8[1,3,4,4] y")

    assert found(model) == ("float", "its input and output have different qparams")


def test_an_op_without_integer_form_says_so():
    model = model_of("g (float[2] x) => (float[2] y) { y = Erf(x) }")

    assert found(model, "y") == ("float", "Erf has no integer form")


def test_a_recurrent_layer_can_have_integer_weights():
    model = model_of(
        """
        g (float[6,2,3] x, int8[1,20,3] w, int8[1,20,5] r, float s) => (float[a,b,c,d] y) {
            wr = DequantizeLinear(w, s)
            rr = DequantizeLinear(r, s)
            y = LSTM<hidden_size = 5>(x, wr, rr)
        }
        """,
        w=np.ones((1, 20, 3), np.int8),
        r=np.ones((1, 20, 5), np.int8),
        s=np.array(1, np.float32),
    )

    assert found(model, "y") == ("weights", "LSTM has no integer form")


def test_blocked_weights_are_dequantized():
    model = model_of(
        """
        g (float[2,4] x, int4[4,3] w, float[2,3] s) => (float[2,3] y) {
            wr = DequantizeLinear<axis = 0, block_size = 2>(w, s)
            y = MatMul(x, wr)
        }
        """,
        opset=21,
        s=np.ones((2, 3), np.float32),
    )
    weight = next(v for v in model.graph.inputs if v.name == "w")
    model.graph.inputs.remove(weight)
    weight.const_value = ir.Tensor(np.ones((4, 3), ir.DataType.INT4.numpy()))
    model.graph.register_initializer(weight)

    [row] = coverage(model).nodes

    assert (row.form, row.weight_dtype, row.n_weights, row.weight_bytes) == (
        "weights", "int4", 12, 6,
    )  # fmt: skip


DYNAMIC = """
g (float[2,3] x, int8[3,4] w, float k, int8 v, float[4] b) => (float[2,4] y) {
    xq, xs, xz = DynamicQuantizeLinear(x)
    acc = MatMulInteger(xq, w, xz, v)
    real = Cast<to = 1>(acc)
    scale = Mul(xs, k)
    product = Mul(real, scale)
    y = Add(product, b)
}
"""


def test_dynamic_quantization_counts_one_node_for_its_group():
    model = model_of(
        DYNAMIC,
        w=np.ones((3, 4), np.int8),
        k=np.array(1, np.float32),
        v=np.array(0, np.int8),
        b=np.ones(4, np.float32),
    )

    rows = coverage(model).nodes

    assert [(row.op_type, row.form, row.macs) for row in rows] == [("MatMulInteger", "integer", 24)]


def test_shape_arithmetic_is_not_counted():
    model = model_of(
        "g (float[2,3] x) => (float[3,2] y) "
        "{ n = Shape(x) two = Constant<value = int64[2] {3, 2}>() m = Mul(n, two) "
        "k = Div(m, n) y = Reshape(x, k) }"
    )

    assert [row.op_type for row in coverage(model).nodes] == ["Reshape"]


def test_shares_are_by_nodes_macs_and_weights():
    model = graph(PAIRED.replace(OUTPUT, "r = Exp(c) " + OUTPUT.replace("c,", "r,")))

    covered = coverage(model)

    assert (covered.by_nodes, covered.by_macs, covered.by_bytes) == (
        Share(0, 1, 2),
        Share(0, 96, 96),
        Share(0, 24, 24),
    )


def test_a_float_node_between_integers_is_an_island():
    model = graph(
        PAIRED.replace(OUTPUT, "cq = QuantizeLinear(c, u, o) cr = DequantizeLinear(cq, u, o) ")
        + "a = Exp(cr) b = Erf(a) y = QuantizeLinear(b, u, o)"
    )

    assert coverage(model).islands == (
        tuple(n.name or n.outputs[0].name for n in model.graph)[-3:-1],
    )


def test_a_recorded_reason_goes_before_what_the_graph_says():
    model = graph(WEIGHT + "c = Conv(x, wr) " + OUTPUT)
    node(model, "c").metadata_props[REASON_KEY] = "--exclude c"

    assert [row.reason for row in coverage(model).nodes] == ["--exclude c"]


def test_a_given_reason_goes_before_a_recorded_one():
    model = graph(WEIGHT + "c = Conv(x, wr) " + OUTPUT)

    assert [row.reason for row in coverage(model, {"c": "asked"}).nodes] == ["asked"]


def test_open_dims_are_assumed_and_said():
    model = model_of("g (float[N,3,H,W] x, float[2,3,1,1] w) => (float[a,b,c,d] y) {y=Conv(x, w)}")

    covered = coverage(model, dims={"H": 4})

    assert (covered.assumed_dim, covered.by_macs.total) == (256, 2 * 3 * 4 * 256)


def test_coverage_is_json():
    assert json.loads(json.dumps(coverage(graph(PAIRED)).to_json()))["macs"]["fraction"] == 1.0


def row(name, form, macs):
    return NodeCoverage(name, "Conv", form, "why", (1,), macs, 1, 4, "float32", "float32")


def test_enough_coverage_passes():
    Coverage((row("a", "integer", 95), row("b", "float", 5))).require(95.0)


def test_too_little_coverage_fails_and_names_the_first_node_left():
    covered = Coverage((row("a", "integer", 90), row("b", "float", 10)))

    with pytest.raises(
        CheckFailed, match=r"^90.00 % of the MACs .* 95 % are needed: b \(Conv\): why$"
    ):
        covered.require(95.0)


def test_unknown_macs_do_not_pass_as_covered():
    with pytest.raises(CheckFailed, match="those of 1 nodes are unknown"):
        Coverage((row("a", "integer", 90), row("b", "integer", None))).require(95.0)


class OneSample(CalibrationDataReader):
    def __init__(self, feeds):
        self.feeds = iter([feeds])

    def get_next(self):
        return next(self.feeds, None)


def test_integer_nodes_are_those_that_onnxruntime_fuses(tmp_path, rng):
    """The selectors of onnxruntime are the definition: count what its optimizer makes."""
    before, after, optimized = (tmp_path / f"{name}.onnx" for name in ("before", "q", "opt"))
    save(conv_net(rng), before)
    feeds = {"x": rng.normal(size=(1, 3, 8, 8)).astype(np.float32)}
    quantize_static(
        before, after, OneSample(feeds), per_channel=True, activation_type=QuantType.QUInt8
    )
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(optimized)
    options.log_severity_level = 4
    onnxruntime.InferenceSession(after, options, providers=["CPUExecutionProvider"])

    fused = {"QLinearConv": "Conv", "QGemm": "Gemm", "QLinearAdd": "Add"}
    made = [fused[n.op_type] for n in ir.load(optimized).graph if n.op_type in fused]
    rows = coverage(load(after)).nodes

    integer = [r.op_type for r in rows if r.form == "integer" and r.op_type in fused.values()]
    assert sorted(integer) == sorted(made)
