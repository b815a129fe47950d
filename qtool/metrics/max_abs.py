"""max-abs: the largest |output - target| of all elements of all samples."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from qtool.metrics._metric import INPUT, LABELS, REFERENCE, Metric, Rows, flat


def rows(outputs: npt.NDArray[Any], target: npt.NDArray[Any]) -> Rows:
    """Return the largest difference."""
    largest: Rows = np.abs(flat(outputs, target) - flat(target)).max(axis=1, keepdims=True)
    return largest


def value(rows: Rows) -> float:
    """Return the largest of all."""
    return float(rows.max())


METRIC = Metric(  # resampling says nothing about the largest value, so no interval
    rows, value, (REFERENCE, LABELS, INPUT), higher_is_better=False, perfect=0.0, interval=False
)
