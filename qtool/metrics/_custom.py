"""A metric out of a user's function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from qtool.errors import DataError
from qtool.metrics._metric import LABELS, REFERENCE, Metric, Rows

Array = npt.NDArray[Any]


def custom(function: Callable[[Array, Array], Any], name: str) -> Metric:
    """Return the metric whose value is the mean of function(outputs, target), higher is better.

    function gets arrays of n samples, and returns a number for each, or one for all of them.
    """

    def rows(outputs: Array, target: Array) -> Rows:
        n = outputs.shape[0]
        try:
            found = np.asarray(function(outputs, target), np.float64)
        except Exception as error:
            raise DataError(f"{name} failed: {type(error).__name__}: {error}") from error
        if found.size not in (1, n):
            raise DataError(f"{name} returned {found.size} numbers for {n} samples; return {n}")
        return np.broadcast_to(found.reshape(-1), n).reshape(n, 1)

    return Metric(rows, mean, (LABELS, REFERENCE), higher_is_better=True)


def mean(rows: Rows) -> float:
    """Return the mean."""
    return float(rows.mean())
