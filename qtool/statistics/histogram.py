"""The histogram of one tensor, on a global power-of-two grid; see docs/statistics.md.

Bin k at exponent e covers [k * 2**e, (k + 1) * 2**e), for -4096 <= k < 4096. e is the smallest
exponent, not under -126, at which the largest |x| falls into a bin; so everything that finish()
returns depends only on the multiset of the values.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from qtool import _native
from qtool.errors import DataError, UsageError
from qtool.model import TensorStatistics

N_BINS = 8192  # bins a histogram can have, both sides together
BYTES = (8 + 4) * N_BINS  # memory of one Histogram


class Histogram:
    """Counts values, from any number of threads."""

    def __init__(self, isa: str = "") -> None:
        """Start at zero values; isa names the kernels to use, "" the fastest.

        Raises:
            UsageError: this machine has no such kernels.
        """
        try:
            self._native = _native.Histogram(isa)
        except ValueError as error:
            raise UsageError(str(error)) from error

    def update(self, x: npt.NDArray[Any]) -> None:
        """Count every element of x, of any shape.

        float32 is counted as it is; float16, bfloat16 and float64 are first rounded to float32.

        Raises:
            DataError: an element is NaN or infinite; drop the histogram then.
        """
        try:
            finite = self._native.update(x)
        except (TypeError, ValueError):  # not float32, not contiguous, or not aligned
            finite = self._native.update(float32(x))
        if not finite:
            raise DataError(nonfinite(x))

    def merge(self, other: Histogram) -> None:
        """Count all that other counted, too."""
        add(self, other.finish())

    def finish(self) -> TensorStatistics:
        """Return what was counted so far."""
        return TensorStatistics(*self._native.state())


def merged(parts: Iterable[TensorStatistics]) -> TensorStatistics:
    """Return the statistics of all that the parts counted.

    Raises:
        DataError: no histogram can have these statistics, or the counts pass 2**63 - 1.
    """
    histogram = Histogram()
    for part in parts:
        add(histogram, part)
    return histogram.finish()


def from_statistics(statistics: TensorStatistics) -> Histogram:
    """Return a histogram that goes on from the statistics.

    Raises:
        DataError: no histogram can have these statistics.
    """
    histogram = Histogram()
    add(histogram, statistics)
    return histogram


def add(histogram: Histogram, statistics: TensorStatistics) -> None:
    """Count all that the statistics counted.

    Raises:
        DataError: no histogram can have these statistics, or the counts pass 2**63 - 1.
    """
    if statistics.count == 0:
        return
    try:
        histogram._native.add(
            minimum=statistics.minimum,
            maximum=statistics.maximum,
            n_zeros=statistics.n_zeros,
            exponent=statistics.exponent,
            first=statistics.first,
            counts=np.ascontiguousarray(statistics.counts, np.int64),
        )
    except (ValueError, OverflowError, TypeError) as error:
        raise DataError(f"statistics cannot be used: {error}") from error


def float32(x: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Return x as contiguous and aligned float32, without a copy where it is that already."""
    with np.errstate(over="ignore"):  # what becomes infinite is reported as such
        values = np.ascontiguousarray(x, np.float32)
    return values if values.flags.aligned else values.copy()


def nonfinite(x: npt.NDArray[Any]) -> str:
    """Return what is not finite in x, for an error: "3 of 10 values are NaN, 1 infinite"."""
    values = float32(x)
    n_nan, n_infinite = int(np.isnan(values).sum()), int(np.isinf(values).sum())
    return f"{n_nan} of {values.size} values are NaN, {n_infinite} infinite"
