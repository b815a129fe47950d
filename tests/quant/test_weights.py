from __future__ import annotations

from importlib import import_module

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from qtool.qparams import dequantize, limits
from qtool.quant.weights import STORAGE, WEIGHT_METHODS, quantize_weight

SCHEMES = [
    {"dtype": "int8", "symmetric": True, "narrow": True},
    {"dtype": "int8", "symmetric": True, "narrow": False},
    {"dtype": "uint8", "symmetric": False, "narrow": False},
    {"dtype": "uint8", "symmetric": True, "narrow": False},
    {"dtype": "int4", "symmetric": True, "narrow": True},
    {"dtype": "uint4", "symmetric": False, "narrow": False},
]


def squared_error(weight, axis, method, **scheme):
    stored, qparams = quantize_weight(weight, method=method, axis=axis, **scheme)
    error = dequantize(stored.astype(np.int32), qparams).astype(np.float64) - weight
    return np.square(error).sum()


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
@pytest.mark.parametrize("axis", [None, 0, 2])
@pytest.mark.parametrize("method", WEIGHT_METHODS)
def test_integers_stay_in_range_and_zero_is_exact(method, axis, scheme, rng):
    weight = rng.standard_t(3, (5, 4, 3)).astype(np.float32)
    weight[1, 1] = 0

    stored, qparams = quantize_weight(weight, method=method, axis=axis, **scheme)

    low, high = limits(scheme["dtype"], narrow=scheme["narrow"])
    assert stored.dtype == STORAGE[scheme["dtype"]]
    assert low <= stored.astype(int).min() <= stored.astype(int).max() <= high
    assert (dequantize(stored.astype(np.int32), qparams)[1, 1] == 0).all()


@pytest.mark.parametrize("method", WEIGHT_METHODS)
@pytest.mark.parametrize("axis", [0, 1])
def test_there_is_one_scale_per_channel(method, axis, rng):
    weight = rng.normal(size=(6, 3, 2)).astype(np.float32)

    _, qparams = quantize_weight(weight, method=method, axis=axis)

    assert qparams.scale.shape == qparams.zero_point.shape == (weight.shape[axis],)


@given(
    hnp.arrays(
        np.float32,
        hnp.array_shapes(min_dims=2, max_dims=3, max_side=5),
        elements=st.floats(-1e6, 1e6, width=32),
    )
)
def test_minmax_errs_by_at_most_half_a_step(weight):
    stored, qparams = quantize_weight(weight, axis=0)

    error = np.abs(dequantize(stored, qparams) - weight)
    half = qparams.scale.reshape([-1] + [1] * (weight.ndim - 1)) / 2
    assert (error <= half * 1.0001).all()


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
@pytest.mark.parametrize("axis", [None, 0, 1])
@pytest.mark.parametrize("n", [50, 500])
def test_mse_is_never_worse_than_minmax(n, axis, scheme, rng):
    weight = rng.standard_t(3, (8, n)).astype(np.float32)

    assert squared_error(weight, axis, "mse", **scheme) <= squared_error(
        weight, axis, "minmax", **scheme
    ) * (1 + 1e-6)


@pytest.mark.parametrize("n", [200, 4000])
def test_mse_comes_near_the_best_of_a_fine_search(n, rng):
    weight = rng.standard_t(4, n).astype(np.float32)
    peak = np.abs(weight).max()

    def error(scale):
        q = np.clip(np.rint(weight / scale), -7, 7)
        return np.square(q * scale - weight).sum(dtype=np.float64)

    best = min(error(peak * r / 7) for r in np.linspace(0.05, 1, 2000))
    found = squared_error(weight, None, "mse", dtype="int4", symmetric=True, narrow=True)
    assert found <= best * 1.01


@pytest.mark.parametrize("n", [30, 300])
def test_mse_does_not_depend_on_how_many_channels_are_searched_at_once(n, rng, monkeypatch):
    weight = rng.normal(size=(7, n)).astype(np.float32)
    _, whole = quantize_weight(weight, method="mse", dtype="int4", axis=0)

    monkeypatch.setattr(import_module("qtool.quant.weights.mse"), "CHUNK", 2 * n + 1)
    _, parts = quantize_weight(weight, method="mse", dtype="int4", axis=0)

    np.testing.assert_array_equal(whole.scale, parts.scale)


@pytest.mark.parametrize("axis", [None, 0, 1])
def test_the_integers_do_not_depend_on_the_piece_size(axis, rng, monkeypatch):
    weight = rng.normal(size=(7, 5, 3)).astype(np.float32)
    whole, _ = quantize_weight(weight, axis=axis)

    monkeypatch.setattr("qtool.quant.weights.CHUNK", 16)
    parts, _ = quantize_weight(weight, axis=axis)

    np.testing.assert_array_equal(whole, parts)


@pytest.mark.parametrize("method", WEIGHT_METHODS)
@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (1, 1), (3,)])
def test_odd_shapes_are_fine(method, shape):
    stored, qparams = quantize_weight(np.zeros(shape, np.float32), method=method, axis=0)

    assert stored.shape == shape
    assert (qparams.scale == 1).all()
