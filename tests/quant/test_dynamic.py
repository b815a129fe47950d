from __future__ import annotations

import numpy as np
import pytest
from quant.graphs import model_of, node, ops

from qtool.errors import UnsupportedError
from qtool.formats import load
from qtool.model import Model, array, fingerprint
from qtool.quant.dynamic import dynamic
from qtool.quant.encode import WeightScheme
from qtool.quant.integer_weights import saturates
from qtool.quant.selection import select
from qtool.quant.weight_only import weight_only
from qtool.runtime.ort import OrtSession
from qtool.stages.freeze import freeze


def quantized(model: Model, op_types=("MatMul", "Gemm"), **scheme):
    result = model.copy()
    reasons = dynamic(result, select(result), WeightScheme(**scheme), op_types=op_types)
    return result, reasons


def run(model, **feeds):
    return next(iter(OrtSession(model).run(feeds).values()))


def real(rng, *shape):
    return rng.normal(size=shape).astype(np.float32)


def quantize_dynamically(x):
    """Return integers, scale and zero point as ONNX's DynamicQuantizeLinear defines them."""
    low, high = min(x.min(), np.float32(0)), max(x.max(), np.float32(0))
    scale = (high - low) / np.float32(255)
    zero = np.clip(np.rint((0 - low) / scale), 0, 255)
    return np.clip(np.rint(x / scale) + zero, 0, 255).astype(np.int64), scale, zero.astype(np.int64)


def quantize_columns(w, symmetric=True):
    """Return the integers of a (K, N) weight, less their zero points, and the (N,) scales."""
    if symmetric:
        scale = (np.abs(w).max(axis=0) / 127).astype(np.float32)
        return np.clip(np.rint(w / scale), -127, 127).astype(np.int64), scale
    low, high = np.minimum(w.min(axis=0), 0), np.maximum(w.max(axis=0), 0)
    scale = ((high.astype(np.float64) - low) / 255).astype(np.float32)
    zero = np.rint(-low.astype(np.float64) / scale)
    return (np.clip(np.rint(w / scale) + zero, 0, 255) - zero).astype(np.int64), scale


def definition(x, w, symmetric=True):
    """Return x @ w in dynamic integer arithmetic."""
    xq, x_scale, x_zero = quantize_dynamically(x)
    wq, w_scale = quantize_columns(w, symmetric)
    acc = (xq - x_zero) @ wq
    return acc.astype(np.float32) * (x_scale * w_scale)


def linear(text, **constants):
    return model_of(f"net {text}", **constants)


MATMUL = "(float[n, 32] x, float[32, 12] w) => (float[n, 12] y) { y = MatMul(x, w) }"


@pytest.mark.parametrize("symmetric", [True, False])
def test_matmul_equals_the_definition(symmetric, rng):
    x, w = real(rng, 7, 32), real(rng, 32, 12)
    dtype = "int8" if symmetric else "uint8"

    result, _ = quantized(linear(MATMUL, w=w), dtype=dtype, symmetric=symmetric, narrow=symmetric)

    np.testing.assert_allclose(run(result, x=x), definition(x, w, symmetric), rtol=1e-6, atol=1e-6)


def test_symmetric_uint8_weights_give_what_int8_weights_give(rng):
    x, w = real(rng, 7, 32), real(rng, 32, 12)

    signed, _ = quantized(linear(MATMUL, w=w), dtype="int8", narrow=False)
    unsigned, _ = quantized(linear(MATMUL, w=w), dtype="uint8")

    np.testing.assert_array_equal(run(signed, x=x), run(unsigned, x=x))


@pytest.mark.parametrize("trans_a", [0, 1])
@pytest.mark.parametrize("trans_b", [0, 1])
def test_gemm_equals_the_definition(trans_a, trans_b, rng):
    x, w, c = real(rng, 5, 32), real(rng, 32, 12), real(rng, 12)
    attributes = f"alpha = 0.5, beta = 2.0, transA = {trans_a}, transB = {trans_b}"
    model = linear(
        f"(float[a, b] x, float[c, d] w, float[12] c) => (float[5, 12] y)"
        f" {{ y = Gemm<{attributes}>(x, w, c) }}",
        w=w.T.copy() if trans_b else w,
        c=c,
    )

    result, _ = quantized(model)

    y = run(result, x=x.T.copy() if trans_a else x)
    np.testing.assert_allclose(y, 0.5 * definition(x, w) + 2 * c, rtol=1e-5, atol=1e-5)


def test_gemm_without_a_bias_equals_the_definition(rng):
    x, w = real(rng, 5, 32), real(rng, 32, 12)

    result, _ = quantized(linear(MATMUL.replace("MatMul", "Gemm"), w=w))

    np.testing.assert_allclose(run(result, x=x), definition(x, w), rtol=1e-6, atol=1e-6)


def test_a_stack_of_matrices_equals_the_definition(rng):
    x, w = real(rng, 2, 3, 32), real(rng, 32, 12)
    text = "(float[a, b, 32] x, float[32, 12] w) => (float[a, b, 12] y) { y = MatMul(x, w) }"

    result, _ = quantized(linear(text, w=w))

    np.testing.assert_allclose(run(result, x=x), definition(x, w), rtol=1e-6, atol=1e-6)


def test_a_transposed_weight_equals_the_definition(rng):
    x, w = real(rng, 4, 32), real(rng, 32, 12)
    text = """(float[n, 32] x, float[12, 32] w) => (float[n, 12] y) {
        t = Transpose(w)
        y = MatMul(x, t)
    }"""

    result, _ = quantized(linear(text, w=w.T.copy()))

    assert "Transpose" not in ops(result)
    np.testing.assert_allclose(run(result, x=x), definition(x, w), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "attributes", ["", "<pads = [1,1,1,1], strides = [2,2]>", "<group = 2>", "<dilations = [2,2]>"]
)
@pytest.mark.onnxruntime("1.24")
@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_conv_keeps_the_outputs(dtype, attributes, rng):
    channels = 4 if "group" in attributes else 8
    model = linear(
        f"(float[1,8,9,9] x, float[6,{channels},3,3] w, float[6] b) => (float[1,6,h,v] y)"
        f" {{ y = Conv{attributes}(x, w, b) }}",
        w=real(rng, 6, channels, 3, 3),
        b=real(rng, 6),
    )
    x = real(rng, 1, 8, 9, 9)

    result, reasons = quantized(model, op_types=("Conv",), dtype=dtype)

    reference = run(model, x=x)
    error = np.square(run(result, x=x) - reference).sum() / np.square(reference).sum()
    assert reasons == {}
    assert "ConvInteger" in ops(result)
    assert -10 * np.log10(error) > 35


def test_conv_is_float_unless_asked_for(rng):
    model = linear(
        "(float[1,8,9,9] x, float[6,8,3,3] w) => (float[1,6,7,7] y) { y = Conv(x, w) }",
        w=real(rng, 6, 8, 3, 3),
    )

    assert ops(quantized(model)[0]) == ["Conv"]


TWO = """
net (float[n, 32] x, float[32, 12] w, float[32, 12] v) => (float[n, 12] y, float[n, 12] z) {
    y = MatMul(x, w)
    z = MatMul(x, v)
}
"""


def test_a_tensor_is_quantized_once_for_all_its_readers(rng):
    result, _ = quantized(model_of(TWO, w=real(rng, 32, 12), v=real(rng, 32, 12)))

    assert ops(result).count("DynamicQuantizeLinear") == 1


def test_a_shared_weight_stays_one_tensor(rng):
    text = TWO.replace("float[32, 12] v", "float[n, 32] u").replace("MatMul(x, v)", "MatMul(u, w)")

    result, _ = quantized(model_of(text, w=real(rng, 32, 12)))

    assert sum(v.const_value.size == 384 for v in result.graph.initializers.values()) == 1


def test_onnxruntime_fuses_the_nodes(rng, tmp_path):
    import onnx
    import onnx_ir as ir
    import onnxruntime

    result, _ = quantized(linear(MATMUL, w=real(rng, 32, 12)))
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 4

    onnxruntime.InferenceSession(ir.to_proto(result.ir).SerializeToString(), options)

    optimized = onnx.load(tmp_path / "optimized.onnx")
    assert [n.op_type for n in optimized.graph.node] == ["DynamicQuantizeMatMul"]


def test_the_output_keeps_its_name_and_the_node_its_own(rng):
    model = linear(MATMUL, w=real(rng, 32, 12))
    model.graph[0].name = "layer"

    result, _ = quantized(model)

    assert node(result, "y").name == "layer"
    assert [v.name for v in result.graph.outputs] == ["y"]


@pytest.mark.parametrize(
    ("text", "constants", "expected"),
    [
        (
            "(float[n, 32] x, float[32, m] u) => (float[n, m] y) { y = MatMul(x, u) }",
            {},
            "it has no constant second input",
        ),
        (
            MATMUL,
            {"w": np.full((32, 12), np.nan, np.float32)},
            "its weight 'w' holds NaN or infinity",
        ),
        (
            MATMUL.replace("32", "4"),
            {"w": np.ones((4, 12), np.float32)},
            "its weight 'w' has only 48 elements or one axis",
        ),
        (
            MATMUL.replace("32", "70000").replace("12", "1"),
            {"w": np.ones((70000, 1), np.float32)},
            "sums over its weight 'w' could overflow int32",
        ),
    ],
)
def test_a_node_that_computes_in_float_has_a_reason(text, constants, expected):
    result, reasons = quantized(linear(text, **constants))

    assert list(reasons.values()) == [expected]
    assert ops(result) == ["MatMul"]


def test_weight_only_takes_what_dynamic_leaves(rng):
    text = """
    net (int64[n] ids, float[50, 24] table) => (float[n, 50] y) {
        x = Gather(table, ids)
        t = Transpose(table)
        y = MatMul(x, t)
    }
    """
    result = model_of(text, table=real(rng, 50, 24)).copy()

    assert "is also read by x (Gather)" in dynamic(result, select(result))["y"]
    assert weight_only(result, select(result)) == {}


@pytest.mark.parametrize("scheme", [{"dtype": "int4"}, {"block_size": 16}])
def test_only_whole_8_bit_weights_can_be_multiplied(scheme, rng):
    with pytest.raises(UnsupportedError, match="need weight-only quantization"):
        quantized(linear(MATMUL, w=real(rng, 32, 12)), **scheme)


def test_the_original_is_not_changed(rng):
    model = linear(MATMUL, w=real(rng, 32, 12))
    before = fingerprint(model)

    quantized(model)

    assert fingerprint(model) == before


@pytest.mark.parametrize(
    ("pair", "expected"),
    [
        ((64, 64), False),
        ((64, 65), True),
        ((-64, -64), False),
        ((-64, -65), True),
        ((127, -127), False),
    ],
)
def test_two_neighbours_of_one_sign_saturate_int16(pair, expected):
    weight = np.zeros((6, 3), np.int8)
    weight[2:4, 1] = pair

    assert saturates(weight) is expected


def test_neighbours_of_different_pairs_do_not_meet():
    weight = np.zeros((6, 3), np.int8)
    weight[1:3, 1] = 127

    assert not saturates(weight)


def test_a_scale_leaves_with_its_alpha(rng):
    w = real(rng, 32, 12)
    text = MATMUL.replace("MatMul", "Gemm<alpha = 3.0>")

    result, _ = quantized(linear(text, w=w))

    scales = [array(v) for name, v in result.graph.initializers.items() if "scale" in name]
    assert len(scales) == 1
    np.testing.assert_allclose(scales[0], 3 * np.abs(w).max(axis=0) / 127, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("op_types", [("MatMul", "Gemm"), ("MatMul", "Gemm", "Conv")], ids=str)
@pytest.mark.parametrize("name", ["mlperf-tiny-fc-autoencoder-ad", "mlperf-tiny-dscnn-kws"])
def test_the_zoo_keeps_its_outputs(name, op_types, zoo, rng):
    model = freeze(load(zoo / "models" / name / "model.onnx"), check=False)
    (spec,) = model.inputs()
    x = real(rng, *(d if isinstance(d, int) else 1 for d in spec.shape))

    result, reasons = quantized(model, op_types)

    reference = run(model, **{spec.name: x})
    error = np.square(run(result, **{spec.name: x}) - reference).sum()
    assert reasons == {}
    assert 10 * np.log10(np.square(reference).sum() / error) > 20
