"""Whether the right class is among the k best."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from qtool.errors import DataError, UnsupportedError
from qtool.metrics._metric import Rows

Array = npt.NDArray[Any]


def scores(outputs: Array) -> Array:
    """Return outputs as (n, classes), without axes of size 1.

    Raises:
        UnsupportedError: they are not one score per class, for two classes or more.
    """
    kept = outputs.reshape(outputs.shape[0], *(s for s in outputs.shape[1:] if s != 1))
    if kept.ndim != 2:
        raise UnsupportedError(
            f"an output of shape {outputs.shape} is not one score per class; choose another output "
            "with --output-name, or another metric such as auc, sqnr or module:function"
        )
    return kept


def classes(outputs: Array) -> Array:
    """Return the class of the highest score, the first of equals, int64 (n,); -1 for NaN.

    Integer outputs of one number per sample are taken as classes.
    """
    if outputs.dtype.kind in "iu" and outputs.size == outputs.shape[0]:
        return outputs.reshape(-1).astype(np.int64)
    found = scores(outputs)
    return np.where(np.isnan(found).any(axis=1), -1, found.argmax(axis=1))


def hits(outputs: Array, labels: Array, k: int) -> Rows:
    """Return 1 where fewer than k classes beat the label's score, else 0; (n, 1).

    Of equal scores the first counts as higher. NaN among the scores is a miss.

    Raises:
        DataError: labels are not class numbers of these outputs.
    """
    wanted = class_numbers(labels, outputs)
    if outputs.dtype.kind in "iu" and outputs.size == outputs.shape[0] and k == 1:
        return _column(classes(outputs) == wanted)
    found = scores(outputs)
    own = np.take_along_axis(found, wanted[:, None], axis=1)
    earlier = np.arange(found.shape[1]) < wanted[:, None]
    n_above = ((found > own) | ((found == own) & earlier)).sum(axis=1)
    right = (n_above < k) & ~np.isnan(found).any(axis=1)
    return _column(right)


def _column(right: npt.NDArray[np.bool_]) -> Rows:
    column: Rows = right.astype(np.float64).reshape(-1, 1)
    return column


def label_problem(labels: Array, outputs: Array) -> tuple[int, str] | None:
    """Return the first label that is no class of outputs, by place, and what is wrong; or None."""
    numbers = labels.reshape(-1)
    if numbers.dtype.kind == "f":
        fractions = np.flatnonzero(numbers != np.floor(numbers))
        if len(fractions):
            bad = int(fractions[0])
            return bad, f"label {numbers[bad]} is not a class number 0, 1, 2, ..."
    if outputs.dtype.kind in "iu":
        return None
    n_classes = scores(outputs).shape[1]
    beyond = np.flatnonzero((numbers < 0) | (numbers >= n_classes))
    if not len(beyond):
        return None
    bad = int(beyond[0])
    return bad, f"label {numbers[bad]} is not one of the output's classes 0..{n_classes - 1}"


def class_numbers(labels: Array, outputs: Array) -> npt.NDArray[np.int64]:
    """Return labels as int64 (n,), one class of outputs for each of its n samples.

    Raises:
        DataError: they are not; names the first that is not.
    """
    n = outputs.shape[0]
    if labels.size != n:
        raise DataError(f"labels of shape {labels.shape} are not one class for each of {n} samples")
    problem = label_problem(labels, outputs)
    if problem is not None:
        raise DataError(problem[1])
    return labels.reshape(n).astype(np.int64)
