"""agreement: percentage of samples on which model and reference choose the same class."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from qtool.metrics._hits import classes
from qtool.metrics._metric import REFERENCE, Metric, Rows, percent


def rows(outputs: npt.NDArray[Any], reference: npt.NDArray[Any]) -> Rows:
    """Return 1 where the highest scores are of the same class, else 0."""
    same: Rows = (classes(outputs) == classes(reference)).astype(np.float64)
    return same.reshape(-1, 1)


METRIC = Metric(
    rows, percent, (REFERENCE,), higher_is_better=True, perfect=100.0, hits=True, unit="%"
)
