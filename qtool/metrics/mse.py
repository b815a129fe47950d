"""mse: mean of (output - target)**2 over all elements of all samples."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from qtool.metrics._metric import INPUT, LABELS, REFERENCE, Metric, Rows, flat


def rows(outputs: npt.NDArray[Any], target: npt.NDArray[Any]) -> Rows:
    """Return (sum of squared errors, number of elements)."""
    error = flat(outputs, target) - flat(target)
    return np.stack([np.square(error).sum(axis=1), np.full(len(error), error.shape[1])], axis=1)


def value(rows: Rows) -> float:
    """Return the mean squared error."""
    total = rows.sum(axis=0)
    return float(total[0] / total[1])


METRIC = Metric(rows, value, (LABELS, INPUT, REFERENCE), higher_is_better=False, perfect=0.0)
