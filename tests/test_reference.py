from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import reference
from onnx import TensorProto
from onnx import helper as h

from qtool.qparams import DTYPES, QParams

MICROSOFT = "com.microsoft"

# On x86-64 without VNNI onnxruntime adds pairs of uint8 * int8 products in 16 bits, with
# saturation; weights of 7 bits keep it exact on every machine.
WEIGHT = 63


def per_tensor(scale: float, zero: int, dtype: str = "uint8") -> QParams:
    return QParams(np.array(scale, np.float32), np.array(zero, np.int32), dtype)


def per_channel(rng, n: int, axis: int = 0) -> QParams:
    scale = rng.uniform(1e-3, 2e-2, n).astype(np.float32)
    return QParams(scale, np.zeros(n, np.int32), "int8", axis, True)


def integers(rng, shape, dtype: str) -> np.ndarray:
    low, high = DTYPES[dtype]
    return rng.integers(low, high + 1, shape).astype(dtype)


def weights(rng, shape) -> np.ndarray:
    return rng.integers(-WEIGHT, WEIGHT + 1, shape).astype(np.int8)


def qargs(*tensors: Any) -> list[np.ndarray]:
    """Return scale and zero_point arrays in the tensors' own integer types."""
    return [a for p in tensors for a in (p.scale, p.zero_point.astype(p.dtype))]


def onnxruntime_op(op: str, inputs: list[np.ndarray | None], domain: str = "", **attributes):
    """Return the output of one operator, with graph optimizations off."""
    names = ["" if a is None else f"i{i}" for i, a in enumerate(inputs)]
    given = [(n, np.asarray(a)) for n, a in zip(names, inputs, strict=True) if a is not None]
    graph = h.make_graph(
        [h.make_node(op, names, ["y"], domain=domain, **attributes)],
        op,
        [h.make_tensor_value_info("unused", TensorProto.FLOAT, [1])],
        [onnx.ValueInfoProto(name="y")],
        [onnx.numpy_helper.from_array(a, n) for n, a in given],
    )
    opsets = [h.make_opsetid("", 17), h.make_opsetid(MICROSOFT, 1)]
    model = h.make_model(graph, opset_imports=opsets, ir_version=8)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"unused": np.zeros(1, np.float32)})[0]


def differences(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, int]:
    """Return the share of the elements that differ, and by how much at most."""
    assert ours.shape == theirs.shape
    apart = np.abs(ours.astype(np.int64) - theirs)
    return float(np.mean(apart > 0)), int(apart.max(initial=0))


CONVOLUTIONS = {
    "1x1": ((2, 8, 7, 7), (16, 8, 1, 1), {}),
    "3x3": ((1, 5, 9, 8), (7, 5, 3, 3), {"pads": [1, 1, 1, 1]}),
    "strided": ((1, 3, 17, 16), (8, 3, 5, 3), {"strides": [2, 3], "pads": [2, 1, 0, 2]}),
    "dilated": ((1, 4, 15, 15), (6, 4, 3, 3), {"dilations": [2, 3], "pads": [2, 3, 2, 3]}),
    "depthwise": ((1, 12, 10, 10), (12, 1, 3, 3), {"group": 12, "pads": [1, 1, 1, 1]}),
    "groups": ((2, 12, 6, 6), (8, 3, 3, 3), {"group": 4}),
    "1d": ((2, 6, 40), (5, 6, 7), {"strides": [2], "pads": [3, 3]}),
    "3d": ((1, 3, 6, 7, 8), (4, 3, 2, 3, 3), {"strides": [1, 2, 1], "pads": [0, 1, 1, 1, 1, 1]}),
    "deep": ((1, 256, 5, 5), (8, 256, 3, 3), {}),
}


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_conv_is_onnxruntimes_qlinearconv(case, dtype, rng):
    shape, kernel, attributes = CONVOLUTIONS[case]
    x_q, w_q = integers(rng, shape, dtype), weights(rng, kernel)
    bias_q = rng.integers(-9999, 9999, kernel[0]).astype(np.int32)
    x = per_tensor(0.021, 119 if dtype == "uint8" else -7, dtype)
    y = per_tensor(0.35, 101 if dtype == "uint8" else 3, dtype)
    w = per_channel(rng, kernel[0])

    ours = reference.conv(x_q, w_q, bias_q, x, w, y, **attributes)
    theirs = onnxruntime_op(
        "QLinearConv", [x_q, *qargs(x), w_q, *qargs(w, y), bias_q], **attributes
    )

    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize("dims", [1, 2])
def test_conv_transpose_sums_what_onnxruntimes_sums_in_float(dims, group, rng):
    x_q, w_q = integers(rng, (2, 4, *[6] * dims), "uint8"), weights(rng, (4, 3, *[4] * dims))
    x, w, y = per_tensor(1, 100), per_tensor(1, 0, "int8"), per_tensor(1, 0, "uint16")
    geometry = {"strides": [2] * dims, "pads": [1] * dims + [2] * dims, "group": group}
    bias_q = np.full(3 * group, 32768, np.int32)

    ours = reference.conv_transpose(x_q, w_q, bias_q, x, w, y, **geometry)
    real = [reference.dequantize(x_q, x), w_q.astype(np.float32), bias_q.astype(np.float32)]
    theirs = onnxruntime_op("ConvTranspose", real, **geometry)

    np.testing.assert_array_equal(ours, np.clip(theirs, 0, 65535))


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
@pytest.mark.parametrize(("m", "k", "n"), [(1, 1, 1), (3, 7, 5), (64, 300, 65)])
def test_matmul_is_onnxruntimes_qlinearmatmul(m, k, n, dtype, rng):
    x_q, w_q = integers(rng, (2, m, k), dtype), weights(rng, (k, n))
    x, y = per_tensor(0.013, 8, dtype), per_tensor(0.11, 77, dtype)
    w = per_channel(rng, n, axis=1)

    ours = reference.matmul(x_q, w_q, x, w, y)
    theirs = onnxruntime_op("QLinearMatMul", [x_q, *qargs(x), w_q, *qargs(w, y)])

    np.testing.assert_array_equal(ours, theirs)


def test_matmul_of_two_activations_is_onnxruntimes_qlinearmatmul(rng):
    a_q, b_q = integers(rng, (2, 3, 9, 16), "uint8"), integers(rng, (2, 3, 16, 11), "uint8")
    a, b, y = per_tensor(0.013, 131), per_tensor(0.02, 17), per_tensor(0.09, 120)

    ours = reference.matmul(a_q, b_q, a, b, y)
    theirs = onnxruntime_op("QLinearMatMul", [a_q, *qargs(a), b_q, *qargs(b, y)])

    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.onnxruntime("1.25")
def test_gemm_is_onnxruntimes_qgemm(rng):
    x_q, w_q = integers(rng, (33, 50), "uint8"), weights(rng, (20, 50))
    bias_q = rng.integers(-9999, 9999, 20).astype(np.int32)
    x, y, w = per_tensor(0.013, 99), per_tensor(0.07, 30), per_channel(rng, 20)

    ours = reference.gemm(x_q, w_q, bias_q, x, w, y)
    theirs = onnxruntime_op(
        "QGemm",
        [x_q, *qargs(x), w_q, *qargs(w), bias_q, *qargs(y)],
        MICROSOFT,
        transB=1,
    )

    np.testing.assert_array_equal(ours, theirs)


def test_conv_with_unsigned_weights_is_onnxruntimes_qlinearconv(rng):
    x_q, w_q = integers(rng, (1, 6, 8, 8), "uint8"), integers(rng, (4, 6, 3, 3), "uint8")
    x, w, y = per_tensor(0.02, 120), per_tensor(0.01, 133), per_tensor(0.3, 128)

    ours = reference.conv(x_q, w_q, None, x, w, y)
    theirs = onnxruntime_op("QLinearConv", [x_q, *qargs(x), w_q, *qargs(w, y)])

    np.testing.assert_array_equal(ours, theirs)


def test_bias_is_what_dequantizelinear_gives_back(rng):
    x, w = per_tensor(0.021, 119), per_channel(rng, 8)
    bias = rng.normal(size=8).astype(np.float32)

    back = reference.quantize_bias(bias, x, w) * (x.scale * w.scale).astype(np.float64)

    assert (np.abs(back - bias) <= x.scale * w.scale / 2).all()


@pytest.mark.parametrize("dtype", sorted(DTYPES))
def test_requantize_saturates_the_largest_accumulators(dtype):
    y = per_tensor(0.5, 1, dtype)
    acc = np.array([-(2**31), 2**31 - 1])

    assert reference.requantize(acc, 1e30, y).tolist() == list(DTYPES[dtype])


def test_requantize_rounds_half_to_even_before_it_adds_an_odd_zero_point():
    acc = np.array([-3, -1, 1, 3, 5])

    assert reference.requantize(acc, 0.5, per_tensor(1, 7)).tolist() == [5, 7, 7, 9, 9]


def test_relu_is_a_clamp(rng):
    x_q, w_q = integers(rng, (9, 20), "uint8"), weights(rng, (20, 7))
    x, y, w = per_tensor(0.013, 8), per_tensor(0.11, 77), per_channel(rng, 7, axis=1)
    plain = reference.matmul(x_q, w_q, x, w, y)

    clamped = reference.matmul(x_q, w_q, x, w, y, clamp=(77, 255))

    relu = np.maximum(reference.dequantize(plain, y), 0)
    np.testing.assert_array_equal(reference.dequantize(clamped, y), relu)


def elementwise(rng, dtype: str, zero: int | None = None, *, ties: bool = False):
    """Return integers and qparams a, b, and the qparams y of about twice their scale."""
    scale = 2.0 ** rng.integers(-6, 0, 3) if ties else rng.uniform(0.01, 0.1, 3)
    zeros = integers(rng, 3, dtype)
    y = per_tensor(scale[2] * 2, int(zeros[2]) if zero is None else zero, dtype)
    sides = [
        (integers(rng, 5000, dtype), per_tensor(s, int(z), dtype))
        for s, z in zip(scale, zeros[:2], strict=False)
    ]
    return sides[0], sides[1], y


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
@pytest.mark.parametrize("ties", [False, True])
def test_add_rounds_the_real_sum(dtype, ties, rng):
    for _ in range(20):
        (a_q, a), (b_q, b), y = elementwise(rng, dtype, ties=ties)

        found = reference.add(a_q, b_q, a, b, y)

        parts = [
            reference.centred(q, p) * float(p.scale) / float(y.scale)
            for q, p in ((a_q, a), (b_q, b))
        ]
        real = np.clip(np.rint(parts[0] + parts[1]) + y.zero_point, *y.limits)
        assert differences(found, real.astype(np.int64)) <= (0.002, 1)


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
@pytest.mark.parametrize("ties", [False, True])
def test_add_is_onnxruntimes_qlinearadd_but_for_ties(dtype, ties, rng):
    for _ in range(20):
        (a_q, a), (b_q, b), y = elementwise(rng, dtype, zero=20, ties=ties)

        ours = reference.add(a_q, b_q, a, b, y)
        theirs = onnxruntime_op("QLinearAdd", [a_q, *qargs(a), b_q, *qargs(b, y)], MICROSOFT)

        assert differences(ours, theirs) <= (0.0 if ties else 0.002, 1)


def test_onnxruntimes_qlinearadd_rounds_ties_after_an_odd_zero_point(rng):
    one, y = per_tensor(1, 0), per_tensor(2, 7)
    a_q, b_q = np.arange(8, dtype=np.uint8), np.zeros(8, np.uint8)

    ours = reference.add(a_q, b_q, one, one, y)
    theirs = onnxruntime_op("QLinearAdd", [a_q, *qargs(one), b_q, *qargs(one, y)], MICROSOFT)

    assert ours.tolist() == [7, 7, 8, 9, 9, 9, 10, 11]
    assert theirs.tolist() == [7, 8, 8, 8, 9, 10, 10, 10]


def test_sub_adds_the_negative(rng):
    (a_q, a), (b_q, b), y = elementwise(rng, "uint8")
    mirrored = per_tensor(float(b.scale), 255 - int(b.zero_point))

    np.testing.assert_array_equal(
        reference.add(a_q, b_q, a, b, y, sign=-1), reference.add(a_q, 255 - b_q, a, mirrored, y)
    )


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_mul_is_onnxruntimes_qlinearmul_but_for_ties(dtype, rng):
    for _ in range(20):
        (a_q, a), (b_q, b), y = elementwise(rng, dtype, zero=20)

        ours = reference.mul(a_q, b_q, a, b, y)
        theirs = onnxruntime_op("QLinearMul", [a_q, *qargs(a), b_q, *qargs(b, y)], MICROSOFT)

        assert differences(ours, theirs) <= (0.002, 1)


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_global_average_pool_is_onnxruntimes(dtype, rng):
    x_q = integers(rng, (2, 5, 7, 9), dtype)
    x, y = per_tensor(0.03, 5, dtype), per_tensor(0.011, 4, dtype)

    ours = reference.global_average_pool(x_q, x, y)
    theirs = onnxruntime_op(
        "QLinearGlobalAveragePool", [x_q, *qargs(x, y)], MICROSOFT, channels_last=0
    )

    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("count_include_pad", [False, True])
@pytest.mark.parametrize("kernel", [[2, 2], [3, 2], [3, 3]])
def test_average_pool_is_onnxruntimes_but_for_ties(kernel, count_include_pad, rng):
    x_q, x, y = (
        integers(rng, (2, 5, 11, 12), "uint8"),
        per_tensor(0.031713, 15),
        per_tensor(0.021391, 40),
    )
    geometry = {"strides": [2, 1], "pads": [1, 0, 0, 1]}

    ours = reference.average_pool(
        x_q, x, y, kernel=kernel, count_include_pad=count_include_pad, **geometry
    )
    theirs = onnxruntime_op(
        "QLinearAveragePool",
        [x_q, *qargs(x, y)],
        MICROSOFT,
        kernel_shape=kernel,
        count_include_pad=int(count_include_pad),
        **geometry,
    )

    assert differences(ours, theirs) <= (0.002, 1)


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
@pytest.mark.parametrize("dilations", [[1, 1], [2, 3]])
def test_max_pool_is_onnxruntimes(dilations, dtype, rng):
    x_q = integers(rng, (2, 3, 14, 13), dtype)
    geometry = {"strides": [2, 1], "pads": [1, 0, 1, 1], "dilations": dilations}

    ours = reference.max_pool(x_q, kernel=[3, 2], **geometry)
    theirs = onnxruntime_op("MaxPool", [x_q], kernel_shape=[3, 2], **geometry)

    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_concat_is_onnxruntimes_qlinearconcat(dtype, rng):
    (a_q, a), (b_q, b), y = elementwise(rng, dtype)

    ours = reference.concat([(a_q, a), (b_q, b)], y, axis=0)
    theirs = onnxruntime_op(
        "QLinearConcat", [*qargs(y), a_q, *qargs(a), b_q, *qargs(b)], MICROSOFT, axis=0
    )

    np.testing.assert_array_equal(ours, theirs)


TABLES = {
    "QLinearSigmoid": (lambda v: 1 / (1 + np.exp(-v)), {}),
    "QLinearLeakyRelu": (lambda v: np.where(v < 0, np.float32(0.1) * v, v), {"alpha": 0.1}),
}


@pytest.mark.parametrize("op", TABLES)
@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_a_table_is_onnxruntimes_op(op, dtype, rng):
    function, attributes = TABLES[op]
    (x_q, x), _, y = elementwise(rng, dtype)

    table = reference.lookup_table(function, x, y)
    theirs = onnxruntime_op(op, [x_q, *qargs(x, y)], MICROSOFT, **attributes)

    assert len(table) == 256
    assert differences(reference.look_up(x_q, table, x), theirs) <= (0.01, 1)


@pytest.mark.onnxruntime("1.31")
@pytest.mark.parametrize("dtype", ["uint8", "int8"])
@pytest.mark.parametrize("n", [2, 10, 1000])  # of a single element onnxruntime makes 0, not 1
def test_softmax_is_onnxruntimes_within_one(dtype, n, rng):
    x_q, x = integers(rng, (40, n), dtype), per_tensor(0.04, 9, dtype)
    y = per_tensor(1 / 256, DTYPES[dtype][0], dtype)

    ours = reference.softmax(x_q, x, y)
    theirs = onnxruntime_op("QLinearSoftmax", [x_q, *qargs(x, y)], MICROSOFT, axis=-1, opset=13)

    assert differences(ours, theirs) <= (0.001, 1)


def test_softmax_does_not_depend_on_the_order(rng):
    x_q, x, y = integers(rng, (8, 500), "uint8"), per_tensor(0.04, 9), per_tensor(1 / 256, 0)

    backwards = reference.softmax(x_q[:, ::-1], x, y)[:, ::-1]

    np.testing.assert_array_equal(reference.softmax(x_q, x, y), backwards)


def test_an_accumulator_that_leaves_int32_is_refused():
    x, w, y = per_tensor(1, 0), per_tensor(1, 0, "int8"), per_tensor(1, 0)
    x_q, w_q = np.full((1, 70_000), 255, np.uint8), np.full((70_000, 1), 127, np.int8)

    with pytest.raises(AssertionError, match="overflow"):
        reference.matmul(x_q, w_q, x, w, y)
