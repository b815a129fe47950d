"""top1: percentage of samples whose highest score is the label's."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from qtool.metrics._hits import hits
from qtool.metrics._metric import LABELS, Metric, Rows, percent


def rows(outputs: npt.NDArray[Any], labels: npt.NDArray[Any]) -> Rows:
    """Return 1 for a hit, else 0."""
    return hits(outputs, labels, 1)


METRIC = Metric(rows, percent, (LABELS,), higher_is_better=True, hits=True, unit="%")
