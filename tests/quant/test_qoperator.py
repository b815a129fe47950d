from __future__ import annotations

import logging

import numpy as np
import pytest
from quant.graphs import model_of, node, ops

from qtool.data import open_samples
from qtool.errors import UnsupportedError
from qtool.formats import load
from qtool.model import Model, array, fingerprint
from qtool.quant.qoperator import to_qoperator
from qtool.runtime.ort import OrtSession
from qtool.stages.freeze import freeze
from qtool.stages.quantize import quantize

ACTIVATIONS = {"uint8": (0.05, 120), "int8": (0.05, -7)}  # scale and zero point of x and y


def run(model: Model, *, optimize=True, **feeds):
    return next(iter(OrtSession(model, optimize=optimize).run(feeds).values()))


def qdq(body: str, inputs: str = "[1,4,8,8]", dtype="uint8", **constants) -> Model:
    """Return a model whose x and y are integers: xd is x in float, r what y is made of.

    xs xz and ys yz are their qparams, ws wz those of an int8 weight w with 6 rows.
    """
    scale, zero = ACTIVATIONS[dtype]
    params = {
        "xs": np.float32(scale),
        "xz": np.array(zero, dtype),
        "ys": np.float32(0.31),
        "yz": np.array(zero + 3, dtype),
    }
    params = {k: np.asarray(v) for k, v in {**params, **constants}.items()}
    types = {"float32": "float", "int64": "int64", "int32": "int32", "int8": "int8"}
    declared = ", ".join(
        f"{types.get(str(v.dtype), str(v.dtype))}{list(v.shape) if v.ndim else ''} {k}"
        for k, v in params.items()
    )
    text = f"""net ({dtype}{inputs} x, {declared}) => ({dtype}[] y) {{
        xd = DequantizeLinear(x, xs, xz)
        {body}
        y = QuantizeLinear(r, ys, yz)
    }}"""
    model = model_of(text, **params)
    model.graph.outputs[0].shape = None
    return model


def integers(rng, dtype, *shape):
    limits = np.iinfo(dtype)
    return rng.integers(limits.min, limits.max + 1, shape).astype(dtype)


def conv_parts(rng, c_out=6, channels=4):
    scale = rng.uniform(0.01, 0.03, c_out).astype(np.float32)
    return {
        "w": integers(rng, np.int8, c_out, channels, 3, 3),
        "ws": scale,
        "wz": np.zeros(c_out, np.int8),
        "b": rng.integers(-900, 900, c_out).astype(np.int32),
        "bs": scale * np.float32(0.05),
        "bz": np.zeros(c_out, np.int32),
    }


CONV = """
    wd = DequantizeLinear<axis = 0>(w, ws, wz)
    bd = DequantizeLinear<axis = 0>(b, bs, bz)
    r = Conv<pads = [1,1,1,1]>(xd, wd, bd)
"""
SAME = {"ys": np.float32(0.05), "yz": None}
UNARY = {
    "r = Sigmoid(xd)": "QLinearSigmoid",
    "r = LeakyRelu<alpha = 0.2>(xd)": "QLinearLeakyRelu",
    "r = Relu(xd)": "QLinearLeakyRelu",
    "r = GlobalAveragePool(xd)": "QLinearGlobalAveragePool",
    "r = AveragePool<kernel_shape = [2,2], pads = [1,1,0,0]>(xd)": "QLinearAveragePool",
    "r = Softmax<axis = 1>(xd)": "QLinearSoftmax",
    "r = Concat<axis = 1>(xd, xd)": "QLinearConcat",
    "r = Add(xd, xd)": "QLinearAdd",
    "r = Mul(xd, xd)": "QLinearMul",
}
MOVES = [
    "r = MaxPool<kernel_shape = [2,2]>(xd)",
    "r = Transpose<perm = [0,2,3,1]>(xd)",
    "r = Flatten(xd)",
    "r = Identity(xd)",
    "r = Clip(xd, low, high)",
    "r = Slice(xd, one, three, one)",
    "r = Gather<axis = 1>(xd, one)",
    "r = Squeeze(xd, zero)",
    "r = Unsqueeze(xd, zero)",
    "r = Reshape(xd, shape)",
    "r = Pad(xd, pads)",
    "r = Pad(xd, pads, low)",
    "r = ReduceMax<axes = [2], keepdims = 0>(xd)",
    'r = Resize<mode = "nearest">(xd, , scales)',
    "r = DepthToSpace<blocksize = 2>(xd)",
    "r = Tile(xd, shape4)",
]
OPERANDS = {
    "low": np.float32(-1.02),
    "high": np.float32(2.51),
    "zero": np.array([0], np.int64),
    "one": np.array([1], np.int64),
    "three": np.array([3], np.int64),
    "shape": np.array([1, -1], np.int64),
    "shape4": np.array([1, 2, 1, 1], np.int64),
    "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64),
    "scales": np.array([1, 1, 2, 2], np.float32),
}


def operands(body):
    words = body.replace("(", " ").replace(")", " ").replace(",", " ").split()
    return {k: v for k, v in OPERANDS.items() if k in words}


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
@pytest.mark.parametrize("body", UNARY)
def test_an_op_gets_its_integer_form(body, dtype):
    result = to_qoperator(qdq(body, dtype=dtype))

    assert ops(result) == [UNARY[body]]


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
@pytest.mark.parametrize("body", UNARY)
def test_an_integer_form_is_at_most_one_step_off(body, dtype, rng):
    model, x = qdq(body, dtype=dtype), integers(rng, dtype, 1, 4, 8, 8)

    found = run(to_qoperator(model), x=x).astype(int)

    assert np.abs(found - run(model, optimize=False, x=x)).max() <= 1


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_conv_equals_the_fused_qdq_model(dtype, rng):
    model, x = qdq(CONV, dtype=dtype, **conv_parts(rng)), integers(rng, dtype, 1, 4, 8, 8)

    result = to_qoperator(model)

    assert ops(result) == ["QLinearConv"]
    np.testing.assert_array_equal(run(result, x=x), run(model, x=x))


def test_conv_takes_a_clamp_that_saturation_repeats(rng):
    body = CONV.replace("r = Conv", "c = Conv") + "r = Relu(c)"
    model = qdq(body, yz=np.uint8(0), **conv_parts(rng))
    x = integers(rng, "uint8", 1, 4, 8, 8)

    result = to_qoperator(model)

    assert ops(result) == ["QLinearConv"]
    np.testing.assert_array_equal(run(result, x=x), run(model, optimize=False, x=x))


def test_a_weight_without_a_zero_point_gets_one(rng):
    model = qdq(CONV.replace("(w, ws, wz)", "(w, ws)"), **conv_parts(rng))

    result = to_qoperator(model)

    assert array(node(result, "y").inputs[5]).dtype == np.int8
    x = integers(rng, "uint8", 1, 4, 8, 8)
    np.testing.assert_array_equal(run(result, x=x), run(model, x=x))


def test_a_float_weight_behind_a_pair_is_quantized(rng):
    parts = conv_parts(rng)
    parts["w"] = (rng.normal(size=parts["w"].shape) * 0.5).astype(np.float32)
    body = "q = QuantizeLinear<axis = 0>(w, ws, wz)" + CONV.replace("(w, ws", "(q, ws")
    model = qdq(body, **parts)

    result = to_qoperator(model)

    assert ops(result) == ["QLinearConv"]
    x = integers(rng, "uint8", 1, 4, 8, 8)
    np.testing.assert_array_equal(run(result, x=x), run(model, x=x))


LINEAR = """
    wd = DequantizeLinear<axis = 1>(w, ws, wz)
    r = {op}(xd, wd)
"""


def linear_parts(rng):
    return {
        "w": integers(rng, np.int8, 16, 6),
        "ws": rng.uniform(0.01, 0.03, 6).astype(np.float32),
        "wz": np.zeros(6, np.int8),
    }


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
@pytest.mark.parametrize(("op", "form"), [("MatMul", "QLinearMatMul"), ("Gemm", "QGemm")])
def test_a_linear_layer_equals_the_fused_qdq_model(op, form, dtype, rng):
    model = qdq(LINEAR.format(op=op), "[3,16]", dtype, **linear_parts(rng))
    x = integers(rng, dtype, 3, 16)

    result = to_qoperator(model)

    assert ops(result) == [form]
    np.testing.assert_array_equal(run(result, x=x), run(model, x=x))


@pytest.mark.parametrize(("op", "form"), [("MatMul", "MatMulIntegerToFloat"), ("Gemm", "QGemm")])
def test_a_linear_layer_may_give_float(op, form, rng):
    parts = linear_parts(rng)
    declared = "uint8[3,16] x, float xs, uint8 xz, int8[16,6] w, float[6] ws, int8[6] wz"
    body = f"xd = DequantizeLinear(x, xs, xz) {LINEAR.format(op=op)}"
    model = model_of(
        f"net ({declared}) => (float[3,6] r) {{ {body} }}",
        xs=np.float32(0.05),
        xz=np.uint8(120),
        **parts,
    )
    x = integers(rng, "uint8", 3, 16)

    result = to_qoperator(model)

    assert ops(result) == [form]
    np.testing.assert_allclose(
        run(result, x=x), run(model, optimize=False, x=x), rtol=1e-5, atol=1e-5
    )


@pytest.mark.onnxruntime("1.28")
@pytest.mark.parametrize("dtype", ["uint8", "int8"])
@pytest.mark.parametrize("body", MOVES)
def test_a_move_runs_on_the_integers(body, dtype, rng):
    scale, zero = ACTIVATIONS[dtype]
    qparams = {"ys": np.float32(scale), "yz": np.array(zero, dtype)}
    model = qdq(body, dtype=dtype, **qparams, **operands(body))
    x = integers(rng, dtype, 1, 4, 8, 8)

    result = to_qoperator(model)

    assert ops(result) == [body.split("(")[0].split("<")[0].removeprefix("r = ")]
    np.testing.assert_array_equal(run(result, x=x), run(model, optimize=False, x=x))


def test_a_split_gives_integers_everywhere(rng):
    body = "a, b = Split<axis = 1>(xd, parts) r = Mul(a, b)"
    model = qdq(body, parts=np.array([2, 2], np.int64))
    x = integers(rng, "uint8", 1, 4, 8, 8)

    result = to_qoperator(model)

    assert ops(result) == ["Split", "QLinearMul"]
    assert np.abs(run(result, x=x).astype(int) - run(model, optimize=False, x=x)).max() <= 1


STAYS = {
    "r = Tanh(xd)": "there is none for Tanh",
    "e = Exp(xd) r = Add(xd, e)": "its input 1 is not quantized",
    "n = Neg(xd) r = Add(xd, n)": "its input 1 is not quantized",
    'r = Resize<mode = "linear">(xd, , scales)': "interpolating integers rounds differently",
}


@pytest.mark.parametrize("body", STAYS)
def test_what_has_no_form_stays_and_is_named(body, caplog, rng):
    model, x = qdq(body, **operands(body)), integers(rng, "uint8", 1, 4, 8, 8)

    with caplog.at_level(logging.INFO, "qtool"):
        result = to_qoperator(model)

    assert STAYS[body] in caplog.text
    np.testing.assert_array_equal(run(result, optimize=False, x=x), run(model, optimize=False, x=x))


def test_a_float_bias_stays(rng, caplog):
    parts = conv_parts(rng)
    parts["b"] = rng.normal(size=6).astype(np.float32)
    body = CONV.replace("bd = DequantizeLinear<axis = 0>(b, bs, bz)", "").replace("bd", "b")

    with caplog.at_level(logging.INFO, "qtool"):
        to_qoperator(qdq(body, **{k: v for k, v in parts.items() if k not in ("bs", "bz")}))

    assert "its bias is not quantized to int32" in caplog.text


def test_a_bias_of_another_scale_stays(rng, caplog):
    parts = conv_parts(rng)
    parts["bs"] = parts["bs"] * 2

    with caplog.at_level(logging.INFO, "qtool"):
        to_qoperator(qdq(CONV, **parts))

    assert "the scale of its bias is not x_scale * w_scale" in caplog.text


def test_a_float_op_behind_integers_is_not_reported(caplog):
    text = """net (uint8[n] x, float s, uint8 z) => (float[n] y) {
        d = DequantizeLinear(x, s, z)
        y = Exp(d)
    }"""

    with caplog.at_level(logging.INFO, "qtool"):
        to_qoperator(model_of(text, s=np.float32(0.1), z=np.uint8(3)))

    assert caplog.text == ""


def test_sixteen_bits_are_refused():
    text = """net (float[n] x, float s, int16 z) => (float[n] y) {
        q = QuantizeLinear(x, s, z)
        y = DequantizeLinear(q, s, z)
    }"""

    with pytest.raises(UnsupportedError) as raised:
        to_qoperator(model_of(text, opset=21, s=np.float32(0.1), z=np.int16(0)))

    assert str(raised.value) == (
        "tensor 'x' is quantized to int16, and the QOperator format has 8 bits only; "
        "use --format qdq"
    )


def test_scales_may_be_constant_nodes_right_before_their_use(rng):
    text = """net (float[1,4] x) => (float[1,4] y) {
        s = Constant<value = float {0.1}>()
        z = Constant<value = uint8 {3}>()
        q = QuantizeLinear(x, s, z)
        d = DequantizeLinear(q, s, z)
        m = Sigmoid(d)
        t = Constant<value = float {0.004}>()
        u = Constant<value = uint8 {0}>()
        p = QuantizeLinear(m, t, u)
        y = DequantizeLinear(p, t, u)
    }"""
    model, x = model_of(text), rng.normal(size=(1, 4)).astype(np.float32)

    result = to_qoperator(model)

    assert "QLinearSigmoid" in ops(result)
    np.testing.assert_array_equal(run(result, x=x), run(model, x=x))


def test_nodes_in_subgraphs_are_converted(rng):
    text = """net (bool c, uint8[4] x, float s, uint8 z) => (uint8[4] y) {
        d = DequantizeLinear(x, s, z)
        y = If(c) <
            then_branch = yes () => (uint8[4] t) { a = Sigmoid(d) t = QuantizeLinear(a, s, z) },
            else_branch = no () => (uint8[4] e) { b = Add(d, d) e = QuantizeLinear(b, s, z) }>
    }"""
    model = model_of(text, s=np.float32(0.01), z=np.uint8(100))
    x = integers(rng, "uint8", 4)

    result = to_qoperator(model)

    assert ops(result) == ["If"]
    np.testing.assert_array_equal(
        run(result, x=x, c=np.array(True)), run(model, optimize=False, x=x, c=np.array(True))
    )


def test_the_original_is_not_changed(rng):
    model = qdq(CONV, **conv_parts(rng))
    before = fingerprint(model)

    to_qoperator(model)

    assert fingerprint(model) == before


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["fashion-cnn", "mlperf-tiny-resnet8-cifar10", "squeezenet1_1-torchvision"]
)
def test_the_zoo_computes_what_its_qdq_form_does(name, zoo, rng):
    model = freeze(load(zoo / "models" / name / "model.onnx"), check=False)
    data = open_samples(None, model.inputs(), samples=2, random=True)
    result = quantize(model, data=data, mode="static", check=False)
    (spec,) = model.inputs()
    x = rng.normal(size=[d if isinstance(d, int) else 1 for d in spec.shape]).astype(np.float32)

    converted = run(to_qoperator(result), **{spec.name: x})

    np.testing.assert_allclose(converted, run(result, **{spec.name: x}), rtol=1e-5, atol=1e-5)
