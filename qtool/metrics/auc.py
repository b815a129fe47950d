"""auc: probability that a positive sample scores higher than a negative one; ties count half.

auc = (sum of the ranks of the positives - P (P + 1) / 2) / (P N), ranks of equals averaged, for P
positives and N negatives (Mann and Whitney, 1947).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from qtool.errors import DataError, UnsupportedError
from qtool.metrics._hits import scores
from qtool.metrics._metric import INPUT, LABELS, Metric, Rows


def rows(outputs: npt.NDArray[Any], labels: npt.NDArray[Any]) -> Rows:
    """Return (score, label): the score is the output, or of two classes second less first."""
    n = outputs.shape[0]
    found = outputs.reshape(n, 1) if outputs.size == n else scores(outputs)
    if found.shape[1] > 2:
        raise UnsupportedError(f"auc is for two classes; the output has {found.shape[1]}")
    wanted = labels.reshape(-1)
    if len(wanted) != n or not np.isin(wanted, (0, 1)).all():
        raise DataError(f"auc takes one label, 0 or 1, for each of {n} samples; found {labels}")
    score = found.astype(np.float64)
    score = score[:, 0] if found.shape[1] == 1 else score[:, 1] - score[:, 0]
    return np.stack([score, wanted], axis=1)


def value(rows: Rows) -> float:
    """Return the area under the ROC curve; NaN where one class has no samples."""
    score, positive = rows[:, 0], rows[:, 1] == 1
    n_positive = int(positive.sum())
    n_negative = len(rows) - n_positive
    if not n_positive or not n_negative:
        return float("nan")
    _, place, counts = np.unique(score, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place.reshape(-1)]
    u = ranks[positive].sum() - n_positive * (n_positive + 1) / 2
    return float(u / (n_positive * n_negative))


METRIC = Metric(rows, value, (LABELS, INPUT), higher_is_better=True)
