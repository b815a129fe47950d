from __future__ import annotations

from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from qtool.errors import FormatError
from qtool.formats import statistics_bin
from qtool.formats.statistics_bin import dumps, loads
from qtool.model import BatchNormStatistics, GramStatistics, TensorStatistics

COUNTS = hnp.arrays(np.int64, st.integers(1, 60), elements=st.integers(0, 2**40))
FLOATS = st.floats(width=32, allow_nan=False)


def table(counts: np.ndarray, low: float, high: float, exponent: int, first: int):
    counts[[0, -1]] = np.maximum(counts[[0, -1]], 1)
    return TensorStatistics(low, high, int(counts.sum()), 1, exponent, first, counts)


def data_of(*tables: dict) -> memoryview:
    return memoryview(b"".join(bytes(piece) for piece in dumps(*tables)))


@given(COUNTS, FLOATS, FLOATS, st.integers(-400, 400), st.integers(-9999, 9999))
def test_histograms_come_back(counts, low, high, exponent, first) -> None:
    made = table(counts, low, high, exponent, first)

    (found,) = loads(data_of({"x": made}, {}, {}), "")[0].values()

    assert (found.minimum, found.maximum) == (low, high)
    assert (found.exponent, found.first, found.count) == (exponent, first, made.count)
    np.testing.assert_array_equal(found.counts, counts)


def test_an_empty_histogram_comes_back() -> None:
    empty = TensorStatistics(np.inf, -np.inf, 0, 0, 0, 0, np.zeros(0, np.int64))

    found = loads(data_of({"x": empty}, {}, {}), "")[0]["x"]

    assert (found.minimum, found.maximum, found.counts.size) == (np.inf, -np.inf, 0)


def test_grams_and_batch_norm_come_back(rng) -> None:
    values = rng.integers(0, 2**64, (2, 6, 2), np.uint64)
    norm = BatchNormStatistics(rng.random(5, np.float32), rng.random(5, np.float32))

    found = loads(data_of({}, {"w": GramStatistics(7, 2, 3, -20, values)}, {"h": norm}), "")

    assert (found[1]["w"].count, found[1]["w"].exponent) == (7, -20)
    np.testing.assert_array_equal(found[1]["w"].values, values)
    np.testing.assert_array_equal(found[2]["h"].std, norm.std)


def test_the_order_of_tables_does_not_change_the_bytes() -> None:
    made = table(np.ones(3, np.int64), 0.0, 1.0, 0, 0)

    assert data_of({"a": made, "b": made}, {}, {}) == data_of({"b": made, "a": made}, {}, {})


@given(hnp.arrays(np.uint64, st.integers(0, 50), elements=st.integers(0, 2**64 - 1)))
def test_numbers_come_back(values: np.ndarray) -> None:
    writer = statistics_bin._Writer()
    writer.varints(values)
    data = memoryview(b"".join(bytes(piece) for piece in writer.pieces))

    np.testing.assert_array_equal(statistics_bin._Reader(data, "").numbers(len(values)), values)


@given(st.binary(max_size=80), st.integers(0, 400), st.integers(0, 80))
def test_damaged_bytes_raise_format_error(noise: bytes, at: int, cut: int) -> None:
    good = bytes(
        data_of(
            {"x": table(np.arange(9), -1.0, 1.0, 3, -4)},
            {"w": GramStatistics(1, 1, 2, 0, np.zeros((1, 3, 2), np.uint64))},
            {"h": BatchNormStatistics(np.ones(3, np.float32), np.ones(3, np.float32))},
        )
    )
    damaged = good[:at] + noise + good[at + cut :]
    with suppress(FormatError):
        loads(memoryview(damaged), "file")


@pytest.mark.parametrize("data", [b"\x80\x80\x00", b"\x80" * 10 + b"\x01", b"\xff" * 9 + b"\x02"])
def test_numbers_have_one_form(data: bytes) -> None:
    with pytest.raises(FormatError, match="too long|in the middle of a number"):
        statistics_bin._Reader(memoryview(data), "").numbers(1)
