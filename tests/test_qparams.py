from __future__ import annotations

from functools import cache

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import TensorProto
from onnx import helper as h

from qtool.errors import ModelError, UsageError
from qtool.qparams import DTYPES, QParams, dequantize, from_range, limits, quantize

FLOAT_MAX = float(np.finfo(np.float32).max)
dtypes = st.sampled_from(sorted(DTYPES))
onnx_dtypes = st.sampled_from(sorted(set(DTYPES) - {"int3", "uint3"}))  # ONNX has no 3 bits
floats = hnp.arrays(
    np.float32,
    st.integers(1, 40),
    elements=st.floats(width=32, allow_nan=False, allow_infinity=True),
)
positive = st.floats(1.401298464324817e-45, FLOAT_MAX, width=32)
ends = st.floats(-1e38, 1e38)


@cache
def onnx_pair(dtype: str) -> onnxruntime.InferenceSession:
    """Return a session of QuantizeLinear -> DequantizeLinear: x, scale, zero_point -> q, y.

    q is given as float(q - zero_point), because numpy has no 4-bit integers to return.
    """
    kind = getattr(TensorProto, dtype.upper())
    graph = h.make_graph(
        [
            h.make_node("Cast", ["z"], ["zero_point"], to=kind),
            h.make_node("QuantizeLinear", ["x", "scale", "zero_point"], ["q"]),
            h.make_node("DequantizeLinear", ["q", "one", "zero_point"], ["steps"]),
            h.make_node("DequantizeLinear", ["q", "scale", "zero_point"], ["y"]),
        ],
        "pair",
        [
            h.make_tensor_value_info("x", TensorProto.FLOAT, [None]),
            h.make_tensor_value_info("scale", TensorProto.FLOAT, []),
            h.make_tensor_value_info("z", TensorProto.INT32, []),
        ],
        [h.make_tensor_value_info(name, TensorProto.FLOAT, [None]) for name in ("steps", "y")],
        [h.make_tensor("one", TensorProto.FLOAT, [], [1.0])],
    )
    model = h.make_model(graph, opset_imports=[h.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(model)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def qparams(scale: float, zero: int, dtype: str) -> QParams:
    return QParams(np.array(scale, np.float32), np.array(zero, np.int32), dtype)


@given(onnx_dtypes, floats, positive, st.data())
def test_quantize_equals_onnxruntime_bit_for_bit(dtype, x, scale, data):
    zero = data.draw(st.integers(*DTYPES[dtype]))
    if dtype.endswith("int4"):  # there onnxruntime wraps x / scale beyond int32
        with np.errstate(over="ignore"):
            x = x[np.abs(x / np.float32(scale)) < 2.0**31]

    steps, y = onnx_pair(dtype).run(
        None, {"x": x, "scale": np.array(scale, np.float32), "z": np.array(zero, np.int32)}
    )
    q = quantize(x, qparams(scale, zero, dtype))

    np.testing.assert_array_equal(q - zero, steps)
    np.testing.assert_array_equal(dequantize(q, qparams(scale, zero, dtype)), y)


@given(onnx_dtypes, st.integers(-140, 120), st.data())
def test_ties_round_to_even_steps_as_in_onnxruntime(dtype, exponent, data):
    zero = data.draw(st.integers(*DTYPES[dtype]))
    scale = np.array(2.0**exponent, np.float32)
    x = ((np.arange(-40, 40) + 0.5) * np.float64(scale)).astype(np.float32)

    steps, _ = onnx_pair(dtype).run(None, {"x": x, "scale": scale, "z": np.array(zero, np.int32)})

    np.testing.assert_array_equal(quantize(x, qparams(float(scale), zero, dtype)) - zero, steps)


@given(dtypes, ends, ends, st.booleans(), st.booleans())
def test_zero_is_exact(dtype, low, high, symmetric, narrow):
    q = from_range(low, high, dtype, symmetric=symmetric, narrow=narrow)

    assert dequantize(quantize(0.0, q), q) == 0
    assert q.limits[0] <= q.zero_point <= q.limits[1]
    assert q.scale >= np.finfo(np.float32).tiny


@given(dtypes, ends, ends, st.booleans(), st.booleans(), st.lists(st.floats(0, 1), max_size=9))
def test_inside_the_range_the_error_is_at_most_half_a_step(
    dtype, low, high, symmetric, narrow, fractions
):
    low, high = min(low, high, 0.0), max(low, high, 0.0)
    q = from_range(low, high, dtype, symmetric=symmetric, narrow=narrow)
    x = np.array([low, high, *(low + (high - low) * f for f in fractions)], np.float32)

    error = np.abs(dequantize(quantize(x, q), q).astype(np.float64) - x)

    # Beside the half step: scale and the product of eq. 1 are rounded to float32.
    rounding = max(-low, high) * 2**-22
    assert (error <= float(q.scale) / 2 * (1 + 1e-6) + rounding).all()


@given(dtypes, floats, positive, st.data())
def test_quantize_is_monotone(dtype, x, scale, data):
    zero = data.draw(st.integers(*DTYPES[dtype]))
    x = np.sort(x)

    assert (np.diff(quantize(x, qparams(scale, zero, dtype))) >= 0).all()


@given(dtypes, positive, st.data())
def test_every_integer_survives_the_round_trip(dtype, scale, data):
    zero = data.draw(st.integers(*DTYPES[dtype]))
    low, high = DTYPES[dtype]
    q = np.unique(np.linspace(low, high, 997).astype(np.int32))
    there = dequantize(q, qparams(scale, zero, dtype))
    finite = np.isfinite(there)

    np.testing.assert_array_equal(quantize(there, qparams(scale, zero, dtype))[finite], q[finite])


@pytest.mark.parametrize(
    ("dtype", "narrow", "scale", "zero"),
    [
        ("int8", False, 2 / 128, 0),
        ("int8", True, 2 / 127, 0),
        ("uint8", False, 2 / 128, 128),
        ("int4", True, 2 / 7, 0),
        ("uint4", False, 2 / 8, 8),
        ("int16", True, 2 / 32767, 0),
        ("uint16", False, 2 / 32768, 32768),
    ],
)
def test_symmetric_puts_zero_in_the_middle(dtype, narrow, scale, zero):
    q = from_range(-2.0, 1.0, dtype, symmetric=True, narrow=narrow)

    assert q.zero_point == zero
    assert q.scale == np.float32(scale)


def test_narrow_weights_never_use_the_lowest_integer():
    q = from_range(-1.0, 1.0, "int8", symmetric=True, narrow=True)

    assert quantize([-1.0, -9.0, -np.inf], q).tolist() == [-127] * 3


@given(dtypes, positive, st.data())
def test_nan_becomes_the_zero_point(dtype, scale, data):
    zero = data.draw(st.integers(*DTYPES[dtype]))

    assert quantize(np.nan, qparams(scale, zero, dtype)) == zero


def test_asymmetric_covers_the_range_and_zero():
    q = from_range(1.0, 5.1, "uint8")

    assert (q.scale, q.zero_point) == (np.float32(5.1 / 255), 0)


@pytest.mark.parametrize(("low", "high"), [(0, 0), (-1e-45, 0), (0, 1e-38), (-1e-37, 1e-37)])
def test_a_scale_that_would_be_subnormal_becomes_one(low, high):
    q = from_range(low, high, "uint8")

    assert (q.scale, q.zero_point) == (1, 0)


def test_a_range_wider_than_the_largest_float_is_covered():
    q = from_range(-FLOAT_MAX, FLOAT_MAX, "int8")

    assert quantize([-FLOAT_MAX, FLOAT_MAX], q).tolist() == [-128, 127]


def test_a_range_beyond_float32_ends_at_its_largest():
    beyond = from_range(-1e300, 1e300, "int8")
    largest = from_range(-FLOAT_MAX, FLOAT_MAX, "int8")

    assert (beyond.scale, beyond.zero_point) == (largest.scale, largest.zero_point)


def test_per_channel_is_per_tensor_for_each_channel(rng):
    x = rng.normal(size=(3, 4, 5)).astype(np.float32) * [[[1], [9], [0], [1e-3]]]
    q = from_range(x.min((0, 2)), x.max((0, 2)), "int8", symmetric=True, narrow=True, axis=1)

    for axis in (1, -2):
        moved = QParams(q.scale, q.zero_point, q.dtype, axis, q.narrow)
        for c in range(4):
            one = QParams(q.scale[c], q.zero_point[c], q.dtype, None, q.narrow)
            np.testing.assert_array_equal(quantize(x, moved)[:, c], quantize(x[:, c], one))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_range_that_is_not_finite_is_an_error(bad):
    with pytest.raises(ModelError, match="not finite"):
        from_range([0.0, bad], [1.0, 1.0], "int8")


def test_an_unknown_integer_type_is_named():
    with pytest.raises(UsageError, match="no integer type named 'int7': did you mean 'int"):
        limits("int7")
