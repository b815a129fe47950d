from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from qtool.errors import DataError, UsageError
from qtool.statistics.histogram import Histogram, from_statistics

finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
parts = st.lists(hnp.arrays(np.float32, hnp.array_shapes(max_dims=3), elements=finite), max_size=5)


def of(*arrays):
    histogram = Histogram()
    for x in arrays:
        histogram.update(x)
    return histogram


def same(a, b):
    """Whether two statistics are equal down to the bytes."""
    return repr(replace(a, counts=a.counts.tobytes())) == repr(
        replace(b, counts=b.counts.tobytes())
    )


@given(parts=parts, data=st.data())
def test_merging_any_shards_equals_one_run(parts, data):
    shards = [of(), of(), of()]
    for x in parts:
        shards[data.draw(st.integers(0, 2))].update(x)
    whole = of(*parts)

    merged = Histogram()
    for shard in data.draw(st.permutations(shards)):
        merged.merge(shard)

    assert same(merged.finish(), whole.finish())


@given(parts=parts)
def test_statistics_go_on_where_they_ended(parts):
    half = len(parts) // 2

    resumed = from_statistics(of(*parts[:half]).finish())
    for x in parts[half:]:
        resumed.update(x)

    assert same(resumed.finish(), of(*parts).finish())


def test_threads_give_the_same_as_one(rng):
    arrays = [rng.standard_normal(30000, np.float32) * 2.0**i for i in range(8)]
    shared = Histogram()

    threads = [threading.Thread(target=shared.update, args=(x,)) for x in arrays]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert same(shared.finish(), of(*arrays).finish())


def test_an_empty_histogram_says_so():
    statistics = of(np.zeros((0, 3), np.float32)).finish()

    assert (statistics.count, statistics.counts.size, statistics.minimum) == (0, 0, 0.0)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_floats_are_rounded_to_float32(dtype, rng):
    x = rng.standard_normal(100).astype(dtype)

    assert same(of(x).finish(), of(x.astype(np.float32)).finish())


def test_unaligned_arrays_are_counted():
    x = np.frombuffer(b"_" + np.float32([1, 2, 3]).tobytes(), np.float32, 3, 1)

    assert same(of(x).finish(), of(np.float32([1, 2, 3])).finish())


def test_strided_arrays_are_counted_whole(rng):
    x = rng.standard_normal((20, 30), np.float32)

    assert same(of(x.T[::2]).finish(), of(x.T[::2].copy()).finish())


@pytest.mark.parametrize(
    ("x", "what"),
    [
        ([1.0, np.nan, np.inf], "1 of 3 values are NaN, 1 infinite"),
        (np.array([1e300]), "0 of 1 values are NaN, 1 infinite"),
    ],
)
def test_values_that_are_not_finite_are_counted_in_the_error(x, what):
    with pytest.raises(DataError, match=what):
        of(np.asarray(x))


def test_impossible_statistics_are_a_data_error():
    good = of(np.ones(3, np.float32)).finish()

    with pytest.raises(DataError, match="exponent does not fit"):
        from_statistics(replace(good, exponent=3))


def test_unknown_kernels_are_a_usage_error():
    with pytest.raises(UsageError, match="no kernel for instruction set 'sse9'"):
        Histogram("sse9")
