"""The histogram kernels of every instruction set against a plain definition, bit for bit."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from qtool import _native

ISAS = _native.isas()

finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
arrays = hnp.arrays(np.float32, st.integers(0, 300), elements=finite)


def definition(x):
    """Return what state() must return, computed exactly in float64 and Python integers."""
    x = x.astype(np.float64).ravel()
    if x.size == 0:
        return 0.0, 0.0, 0, 0, -126, 0, []
    largest = np.abs(x).max()
    exponent = -126 if largest == 0 else max(math.frexp(largest)[1] - 12, -126)
    bins = np.floor(np.ldexp(x, -exponent)).astype(int)
    counts = np.bincount(bins - bins.min()).tolist()
    zeros = int((x == 0).sum())
    return float(x.min()), float(x.max()), x.size, zeros, exponent, int(bins.min()), counts


def state(histogram):
    *scalars, counts = histogram.state()
    return (*scalars, counts.tolist())


def histogram(isa, *parts):
    if not ISAS[isa]:
        pytest.skip("this machine cannot run it")
    result = _native.Histogram(isa)
    assert all(result.update(part) for part in parts)
    return result


@pytest.mark.parametrize("isa", ISAS)
@given(x=arrays)
def test_state_equals_the_definition(isa, x):
    assert state(histogram(isa, x)) == definition(x)


@pytest.mark.parametrize("isa", ISAS)
@given(x=arrays)
@settings(max_examples=30)
def test_zero_has_no_sign(isa, x):
    lowest, highest, *_ = histogram(isa, x).state()

    assert math.copysign(1, lowest) == 1 or lowest < 0
    assert math.copysign(1, highest) == 1 or highest < 0


EDGES = [
    [0.0, -0.0],
    [1e-45, -1e-45],
    [-1e-45, 3.4028235e38],
    [-1e-38, 1e30],
    [-3.4028235e38, 3.4028235e38],
    [1.0, 2.0, 4.0, -4.0, 4096.0],
    [-8.0, 8.0],
    [np.nextafter(np.float32(8), np.float32(0)), -8.0],
    [-(2.0**-126), 2.0**-115, 2.0**-116],
    [65504.0, -1.0, 0.1, -0.1],
]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("repeat", [1, 3, 17])
@pytest.mark.parametrize("values", EDGES)
def test_edges_equal_the_definition(isa, repeat, values):
    x = np.tile(np.array(values, np.float32), repeat)

    assert state(histogram(isa, x)) == definition(x)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("n", [1, 7, 8, 15, 16, 17, 1023, 1024, 4095, 4096, 4097, 20001])
@pytest.mark.parametrize("share_of_zeros", [0.0, 0.5, 1.0])
def test_sizes_around_vectors_and_blocks(isa, n, share_of_zeros, rng):
    x = rng.standard_normal(n, np.float32) * (rng.random(n) >= share_of_zeros)
    x = x.astype(np.float32)

    assert state(histogram(isa, x)) == definition(x)


@pytest.mark.parametrize("isa", ISAS)
def test_memory_that_no_vector_is_aligned_to(isa, rng):
    x = rng.standard_normal(5000, np.float32)[3:]

    assert state(histogram(isa, x)) == definition(x)


@pytest.mark.parametrize("isa", ISAS)
@given(x=arrays, data=st.data())
@settings(max_examples=50)
def test_any_order_and_any_parts_give_the_same(isa, x, data):
    shuffled = x[data.draw(st.permutations(range(x.size)))] if x.size else x
    cut = data.draw(st.integers(0, x.size))

    assert state(histogram(isa, shuffled[:cut], shuffled[cut:])) == definition(x)


@pytest.mark.parametrize("isa", ISAS)
def test_growing_in_the_middle_of_a_tensor(isa, rng):
    x = rng.standard_normal(20000, np.float32)
    x[9000] = 1e6
    x[15000] = -1e12

    assert state(histogram(isa, x)) == definition(x)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("n", "place"), [(1, 0), (40, 39), (5000, 4999), (5000, 100)])
def test_values_that_are_not_finite_are_refused(isa, bad, n, place):
    x = np.ones(n, np.float32)
    x[place] = bad

    assert not histogram(isa).update(x)


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int32, np.uint8])
def test_other_dtypes_are_not_converted(dtype):
    with pytest.raises(TypeError):
        _native.Histogram().update(np.ones(3, dtype))


def test_memory_that_no_float_is_aligned_to_is_refused():
    x = np.frombuffer(bytes(9), np.float32, 2, 1)

    with pytest.raises(ValueError, match="not aligned"):
        _native.Histogram().update(x)


def test_an_unknown_instruction_set_is_refused():
    with pytest.raises(ValueError, match="no kernel for instruction set 'sse9'"):
        _native.Histogram("sse9")


def test_a_wrong_qtool_isa_is_refused(monkeypatch):
    monkeypatch.setenv("QTOOL_ISA", "sse9")

    with pytest.raises(ValueError, match="QTOOL_ISA .*is 'sse9'"):
        _native.Histogram()


@pytest.mark.parametrize("isa", ISAS)
def test_qtool_isa_caps_the_choice(isa, monkeypatch):
    if not ISAS[isa]:
        pytest.skip("this machine cannot run it")
    monkeypatch.setenv("QTOOL_ISA", isa)

    assert _native.Histogram().isa == isa


GOOD = {"minimum": 0.0, "maximum": 2.0, "n_zeros": 1, "exponent": -10, "first": 0}


def added(**changes):
    counts = np.zeros(2049, np.int64)
    counts[[0, -1]] = 1
    _native.Histogram().add(**{**GOOD, "counts": counts, **changes})


def test_good_statistics_are_added():
    added()


@pytest.mark.parametrize(
    "changes",
    [
        {"exponent": -9},
        {"exponent": 2**31 - 1},
        {"minimum": math.nan},
        {"maximum": math.inf},
        {"maximum": 1e39},
        {"minimum": 0.1},
        {"minimum": 1.0, "maximum": -2.0},
        {"n_zeros": 2},
        {"n_zeros": -1},
        {"first": 2048},
        {"first": -4097},
        {"first": 2**62},
        {"first": -(2**63)},
        {"counts": np.array([1, -1], np.int64)},
        {"counts": np.zeros(0, np.int64)},
        {"counts": np.ones(2**16, np.int64)},
    ],
)
def test_impossible_statistics_are_refused(changes):
    with pytest.raises(ValueError, match="."):
        added(**changes)


def test_a_sum_over_int64_is_refused():
    histogram = _native.Histogram()
    counts = np.zeros(2049, np.int64)
    counts[-1] = 2**62
    good = {**GOOD, "n_zeros": 0, "counts": counts}
    histogram.add(**good)

    with pytest.raises(OverflowError):
        histogram.add(**good)

    assert histogram.state()[2] == 2**62
