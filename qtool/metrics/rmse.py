"""rmse: root of the mean of (output - target)**2 over all elements of all samples."""

from __future__ import annotations

import math

from qtool.metrics import mse
from qtool.metrics._metric import INPUT, LABELS, REFERENCE, Metric, Rows


def value(rows: Rows) -> float:
    """Return the root of the mean squared error."""
    return math.sqrt(mse.value(rows))


METRIC = Metric(mse.rows, value, (LABELS, INPUT, REFERENCE), higher_is_better=False, perfect=0.0)
