"""What a metric is: numbers per sample, and one value of all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from qtool.errors import DataError

Array = npt.NDArray[Any]
Rows = npt.NDArray[np.float64]  # (n, k): k numbers per sample

LABELS, INPUT, REFERENCE = "labels", "input", "reference"
TARGETS = (LABELS, INPUT, REFERENCE)


@dataclass(frozen=True)
class Metric:
    """One metric: value(rows of all samples), where rows(outputs, target) come batch by batch.

    outputs: (n, ...), what the model computed. target: (n, ...), what it is compared with. rows
    are all that is kept, so memory is 8 * k bytes per sample. against: what target may be, of
    TARGETS, the usual first. perfect: the value of a model equal to its target, where that is
    finite. hits: rows are (n, 1) of 0 or 1 and value is their mean in percent, so that the exact
    intervals hold. interval: whether resampling gives one.
    """

    rows: Callable[[Array, Array], Rows]
    value: Callable[[Rows], float]
    against: tuple[str, ...]
    higher_is_better: bool
    perfect: float | None = None
    hits: bool = False
    interval: bool = True
    unit: str = ""


def flat(values: Array, like: Array | None = None) -> Rows:
    """Return values as float64 (n, elements per sample).

    Raises:
        DataError: like is given and has another shape.
    """
    if like is not None and values.shape != like.shape and values.size != like.size:
        raise DataError(f"shape {values.shape} cannot be compared with a target of {like.shape}")
    return values.reshape(values.shape[0], -1).astype(np.float64)


def percent(rows: Rows) -> float:
    """Return the mean of hits in percent."""
    return float(100 * rows.mean())
