"""cosine: mean over samples of x . t / (|x| |t|), for output x and target t."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from qtool.metrics._metric import INPUT, LABELS, REFERENCE, Metric, Rows, flat


def rows(outputs: npt.NDArray[Any], target: npt.NDArray[Any]) -> Rows:
    """Return the cosine; 1 where both are all zeros, 0 where one is."""
    x, t = flat(outputs, target), flat(target)
    dot, xx, tt = (np.einsum("ij,ij->i", a, b) for a, b in ((x, t), (x, x), (t, t)))
    size = np.sqrt(xx) * np.sqrt(tt)
    both_zero = (xx == 0) & (tt == 0)
    cosine: Rows = np.divide(dot, size, out=both_zero.astype(np.float64), where=size > 0)
    return cosine.reshape(-1, 1)


def value(rows: Rows) -> float:
    """Return the mean cosine."""
    return float(rows.mean())


METRIC = Metric(
    rows, value, (REFERENCE, LABELS, INPUT), higher_is_better=True, perfect=1.0
)  # fmt: skip
