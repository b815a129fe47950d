from __future__ import annotations

import os

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from quant.graphs import model_of, node, ops

from qtool.formats import load, save
from qtool.model import Model, array, attribute, fingerprint
from qtool.quant.encode import WeightScheme
from qtool.quant.selection import select
from qtool.quant.weight_only import needed_opset, weight_only
from qtool.runtime.ort import OrtSession
from qtool.stages.freeze import freeze


def quantized(model: Model, exclude=(), **scheme):
    result = model.copy()
    reasons = weight_only(result, select(result, exclude=exclude), WeightScheme(**scheme))
    return result, reasons


def sqnr(model: Model, result: Model, **feeds):
    """Return the signal-to-noise ratio of the outputs, in dB."""
    reference, found = OrtSession(model).run(feeds), OrtSession(result).run(feeds)
    signal = sum(np.square(v.astype(np.float64)).sum() for v in reference.values())
    noise = sum(
        np.square(v.astype(np.float64) - found[k].astype(np.float64)).sum()
        for k, v in reference.items()
    )
    return 10 * np.log10(signal / noise)


def constants(model: Model):
    return [v.const_value for v in model.graph.initializers.values()]


def real(rng, *shape, dtype=np.float32):
    return rng.normal(size=shape).astype(dtype)


def linear(rng, opset=17, dtype=np.float32, onnx="float"):
    return model_of(
        f"net ({onnx}[n, 64] x, {onnx}[64, 32] w) => ({onnx}[n, 32] y) {{ y = MatMul(x, w) }}",
        opset=opset,
        w=real(rng, 64, 32, dtype=dtype),
    )


CASES = {
    "Conv": "(float[1,8,9,9] x, float[16,8,3,3] w) => (float[1,16,7,7] y) { y = Conv(x, w) }",
    "ConvTranspose": "(float[1,8,9,9] x, float[8,16,3,3] w) => (float[1,16,11,11] y)"
    " { y = ConvTranspose(x, w) }",
    "ConvTranspose in groups": "(float[1,8,9,9] x, float[8,2,3,3] w) => (float[1,4,11,11] y)"
    " { y = ConvTranspose<group = 2>(x, w) }",
    "ConvTranspose of depthwise": "(float[1,8,9,9] x, float[8,1,3,3] w) => (float[1,8,11,11] y)"
    " { y = ConvTranspose<group = 8>(x, w) }",
    "Gemm": "(float[5,40] x, float[40,12] w) => (float[5,12] y) { y = Gemm(x, w) }",
    "Gemm transposed": "(float[5,40] x, float[12,40] w) => (float[5,12] y)"
    " { y = Gemm<transB = 1>(x, w) }",
    "MatMul": "(float[2,5,40] x, float[40,12] w) => (float[2,5,12] y) { y = MatMul(x, w) }",
    "MatMul from the left": "(float[40,5] x, float[12,40] w) => (float[12,5] y)"
    " { y = MatMul(w, x) }",
    "LSTM": "(float[6,1,16] x, float[1,32,16] w, float[1,32,8] r) => (float[6,1,1,8] y)"
    " { y = LSTM<hidden_size = 8>(x, w, r) }",
    "GRU both ways": "(float[6,1,16] x, float[2,24,16] w, float[2,24,8] r)"
    ' => (float[6,2,1,8] y) { y = GRU<hidden_size = 8, direction = "bidirectional">(x, w, r) }',
}


def case(name, rng, opset=17):
    text = CASES[name]
    shapes = {k: dims(text, k) for k in ("w", "r") if f"] {k}" in text}
    made = {k: np.float32(0.3) * real(rng, *s) for k, s in shapes.items()}  # gates do not saturate
    return model_of(f"net {text}", opset=opset, **made), real(rng, *dims(text, "x"))


def dims(text, name):
    return [int(d) for d in text.split(f"] {name}")[0].rsplit("[", 1)[1].split(",")]


@pytest.mark.parametrize("name", CASES)
def test_int8_weights_keep_the_outputs(name, rng):
    model, x = case(name, rng)

    result, reasons = quantized(model)

    assert reasons == {}
    assert sqnr(model, result, x=x) > 38


@pytest.mark.parametrize("name", CASES)
def test_no_float_weight_is_left(name, rng):
    model, _ = case(name, rng)

    result, _ = quantized(model)

    sizes = [
        v.const_value.size
        for v in result.graph.initializers.values()
        if v.dtype.is_floating_point()
    ]
    assert max(sizes) <= 32  # scales


@pytest.mark.parametrize("name", ["Conv", "Gemm transposed", "MatMul", "LSTM"])
@pytest.mark.parametrize(
    "scheme",
    [
        {"dtype": "uint8", "symmetric": False},
        {"dtype": "int8", "per_channel": False},
        {"dtype": "int8", "block_size": 16},
        {"dtype": "int4", "narrow": False},
        {"dtype": "int4", "method": "mse", "block_size": 16},
        {"dtype": "int4", "block_size": 0},
        {"dtype": "uint4", "symmetric": False, "block_size": 16},
    ],
    ids=str,
)
def test_onnxruntime_runs_every_scheme(name, scheme, rng):
    model, x = case(name, rng, opset=21)

    result, reasons = quantized(model, **scheme)

    assert reasons == {}
    assert sqnr(model, result, x=x) > (12 if "4" in scheme["dtype"] else 30)


def test_onnxruntime_fuses_blocked_int4_into_matmulnbits(rng, tmp_path):
    import onnx
    import onnxruntime

    model = model_of(
        "net (float[n, 256] x, float[256, 64] w) => (float[n, 64] y) { y = MatMul(x, w) }",
        opset=21,
        w=real(rng, 256, 64),
    )
    result, _ = quantized(model, dtype="int4", narrow=False)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = os.fspath(tmp_path / "optimized.onnx")
    options.log_severity_level = 4

    onnxruntime.InferenceSession(ir.to_proto(result.ir).SerializeToString(), options)

    optimized = onnx.load(tmp_path / "optimized.onnx", load_external_data=False)
    assert [n.op_type for n in optimized.graph.node] == ["MatMulNBits"]


@pytest.mark.parametrize(
    ("dtype", "onnx", "opset"),
    [
        (np.float16, "float16", 19),
        (ml_dtypes.bfloat16, "bfloat16", 19),
        (np.float64, "double", 13),
    ],
    ids=str,
)
def test_other_float_types_come_back_as_they_were(dtype, onnx, opset, rng):
    model = linear(rng, max(opset, 17), dtype, onnx)

    result, _ = quantized(model)

    assert needed_opset(model, WeightScheme()) == opset
    assert str(node(result, "y").inputs[1].dtype.numpy()) == np.dtype(dtype).name
    assert node(result, "y").inputs[1].producer().op_type == (
        "Cast" if onnx == "double" else "DequantizeLinear"
    )


def test_half_weights_run(rng):
    model = linear(rng, 19, np.float16, "float16")

    result, _ = quantized(model)

    assert sqnr(model, result, x=real(rng, 3, 64, dtype=np.float16)) > 35


@pytest.mark.parametrize(
    ("scheme", "expected"),
    [({}, 13), ({"dtype": "int4"}, 21), ({"block_size": 32}, 21), ({"dtype": "uint8"}, 13)],
)
def test_the_opset_that_a_scheme_needs(scheme, expected, rng):
    assert needed_opset(linear(rng), WeightScheme(**scheme)) == expected


EMBEDDING = """
net (int64[n, t] ids, float[50, 24] table) => (float[n, t, 24] y) {
    y = Gather(table, ids)
}
"""


def test_an_embedding_is_looked_up_in_integers(rng):
    model = model_of(EMBEDDING, table=real(rng, 50, 24))

    result, _ = quantized(model)

    assert ops(result) == ["Gather", "DequantizeLinear"]
    assert sqnr(model, result, ids=np.array([[0, 49, 7]])) > 38


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_an_embedding_may_be_looked_up_along_any_axis(axis, rng):
    model = model_of(
        f"net (int64[2, 2] ids, float[9,8,7] table) => (float[a,b,c,d] y)"
        f" {{ y = Gather<axis = {axis}>(table, ids) }}",
        table=real(rng, 9, 8, 7),
    )

    result, _ = quantized(model)

    assert sqnr(model, result, ids=np.array([[0, 3], [6, 6]])) > 38


TIED = """
net (int64[n] ids, float[50, 24] table) => (float[n, 50] y) {
    x = Gather(table, ids)
    t = Transpose<perm = [1, 0]>(table)
    y = MatMul(x, t)
}
"""


@pytest.mark.onnxruntime("1.28")
def test_a_tied_weight_stays_one_tensor(rng):
    model = model_of(TIED, table=real(rng, 50, 24))

    result, _ = quantized(model)

    assert ops(result).count("DequantizeLinear") == 1
    assert sum(t.size == 1200 for t in constants(result)) == 1
    assert sqnr(model, result, ids=np.array([3, 4])) > 35


def test_a_tied_weight_has_a_scale_per_output_channel_of_the_matmul(rng):
    model = model_of(TIED, table=real(rng, 50, 24))

    result, _ = quantized(model)

    dequantize = next(n for n in result.graph if n.op_type == "DequantizeLinear")
    assert attribute(dequantize, "axis") == 0
    assert array(dequantize.inputs[1]).shape == (50,)


def test_a_weight_that_an_excluded_node_reads_stays_float(rng):
    model = model_of(TIED, table=real(rng, 50, 24))

    result, reasons = quantized(model, exclude=["x"])

    assert ops(result) == ["Gather", "Transpose", "MatMul"]
    assert list(reasons.values()) == [
        "its weight 'table' is also read by x (Gather), which stays in float"
    ]


BRANCHES = """
net (bool c, float[n, 16] x, float[16, 8] w) => (float[n, 8] y) {
    y = If(c) <then_branch = yes () => (float[n, 8] t) { t = MatMul(x, w) },
               else_branch = no () => (float[n, 8] e) { s = MatMul(x, w) e = Neg(s) }>
}
"""


def test_subgraphs_share_a_weight_of_the_main_graph(rng):
    model = model_of(BRANCHES, w=real(rng, 16, 8))

    result, reasons = quantized(model)

    assert ops(result) == ["DequantizeLinear", "If"]
    assert reasons == {}
    assert sqnr(model, result, x=real(rng, 2, 16), c=np.array(True)) > 38


def inner_constant(rng):
    values = ", ".join(f"{v:.4f}" for v in rng.normal(size=128))
    return model_of(
        f"""net (bool c, float[n, 16] x) => (float[n, 8] y) {{
            y = If(c) <
                then_branch = yes () => (float[n, 8] t) {{
                    w = Constant<value = float[16, 8] {{{values}}}>()
                    t = MatMul(x, w)
                }},
                else_branch = no () => (float[n, 8] e) {{
                    z = Constant<value = float[16, 8] {{{values}}}>()
                    e = MatMul(x, z)
                }}>
        }}"""
    )


def test_a_constant_node_in_a_subgraph_is_a_weight(rng):
    model = inner_constant(rng)

    result, reasons = quantized(model)

    inner = [n.op_type for n in result.graph[0].attributes["then_branch"].as_graph()]
    assert inner == ["DequantizeLinear", "MatMul"]
    assert sqnr(model, result, x=real(rng, 2, 16), c=np.array(True)) > 38


def test_an_output_of_the_graph_keeps_its_name(rng):
    result, _ = quantized(model_of(EMBEDDING, table=real(rng, 50, 24)))

    assert [v.name for v in result.graph.outputs] == ["y"]


def reason(text, **constants):
    return list(quantized(model_of(f"net {text}", **constants))[1].values())


@pytest.mark.parametrize(
    ("weight", "expected"),
    [
        (np.ones((4, 4)), "its weight 'w' has only 16 elements"),
        (np.full((16, 16), np.nan), "its weight 'w' holds NaN or infinity"),
        (np.full((16, 16), np.inf), "its weight 'w' holds NaN or infinity"),
        (np.ones((1, 999)), "its weight 'w' would not get smaller"),
    ],
)
def test_a_weight_that_stays_float_has_a_reason(weight, expected):
    weight = weight.astype(np.float32)
    text = "(float[n, k] x, float[k, m] w) => (float[n, m] y) { y = MatMul(x, w) }"

    assert reason(text, w=weight) == [expected]


def test_a_weight_computed_at_run_time_has_a_reason():
    text = "(float[8, 8] x) => (float[8, 8] y) { w = Exp(x) y = MatMul(x, w) }"

    assert reason(text) == ["its weight is computed at run time"]


def test_the_original_is_not_changed(rng):
    model = linear(rng)
    before = fingerprint(model)

    quantized(model)

    assert fingerprint(model) == before


def test_twice_gives_the_same_bytes(rng, tmp_path):
    model = linear(rng)

    for name in ("a.onnx", "b.onnx"):
        save(quantized(model)[0], tmp_path / name)

    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_a_mapped_weight_is_quantized_when_it_is_written(rng, tmp_path):
    model = linear(rng)
    ir.save(model.ir, tmp_path / "m.onnx", external_data="m.bin", size_threshold_bytes=0)
    mapped = load(tmp_path / "m.onnx")

    result, _ = quantized(mapped)

    lazy = [
        v.const_value for v in result.graph.initializers.values() if v.dtype == ir.DataType.INT8
    ]
    assert [type(t) for t in lazy] == [ir.LazyTensor]
    assert fingerprint(result) == fingerprint(quantized(model)[0])


ZOO = {  # least SQNR of each output on noise, in dB
    "mlperf-tiny-fc-autoencoder-ad": 25,
    "mlperf-tiny-dscnn-kws": 25,
    "silero-vad-lstm": 25,
    "squeezenet1_1-torchvision": 25,
    "ultraface-rfb-320": 20,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ZOO)
def test_the_zoo_keeps_its_outputs(name, zoo, rng):
    model = freeze(load(zoo / "models" / name / "model.onnx"), check=False)
    dims = {s.name: [d if isinstance(d, int) else 1 for d in s.shape] for s in model.inputs()}
    feeds = {n: rng.normal(size=d).astype(np.float32) for n, d in dims.items()}

    result, reasons = quantized(model)

    assert reasons == {}
    assert sqnr(model, result, **feeds) > ZOO[name]
