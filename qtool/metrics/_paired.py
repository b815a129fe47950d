"""How much worse one model is than another, on the same samples."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qtool.metrics._intervals import Interval, bootstrap, clopper_pearson, mcnemar, paired
from qtool.metrics._metric import Metric, Rows


@dataclass(frozen=True)
class Difference:
    """drop > 0: the model is worse, in the metric's unit. ci95: its 95 % interval, where known.

    discordant: (only the reference is right, only the model is), for hits with labels.
    """

    value: float
    reference: float | None
    drop: float | None
    ci95: Interval | None
    discordant: tuple[int, int] | None = None
    p_value: float | None = None


def difference(metric: Metric, rows: Rows, reference: Rows | None) -> Difference:
    """Return the drop from reference to rows, of the same samples.

    Without reference, the drop is from a perfect value, where the metric has one: for metrics
    that compare with the reference themselves.
    """
    value, sign = metric.value(rows), 1 if metric.higher_is_better else -1
    if reference is None:
        if metric.perfect is None:
            return Difference(value, None, None, None)
        perfect = metric.perfect
        return Difference(
            value, None, sign * (perfect - value), _single(metric, rows, sign, perfect)
        )
    if metric.hits:
        return _hits(metric, rows, reference, value)
    other = metric.value(reference)
    ci95 = None
    if metric.interval:
        ci95 = bootstrap(
            lambda chosen: sign * (metric.value(reference[chosen]) - metric.value(rows[chosen])),
            len(rows),
        )
    return Difference(value, other, sign * (other - value), ci95)


def _single(metric: Metric, rows: Rows, sign: int, perfect: float) -> Interval | None:
    if metric.hits:
        low, high = clopper_pearson(int(rows.sum()), len(rows))
        return perfect - 100 * high, perfect - 100 * low
    if not metric.interval:
        return None
    return bootstrap(lambda chosen: sign * (perfect - metric.value(rows[chosen])), len(rows))


def _hits(metric: Metric, rows: Rows, reference: Rows, value: float) -> Difference:
    right, reference_right = rows[:, 0] == 1, reference[:, 0] == 1
    b = int(np.count_nonzero(reference_right & ~right))
    c = int(np.count_nonzero(right & ~reference_right))
    low, high = paired(b, c, len(rows))
    drop = 100 * (b - c) / len(rows)
    return Difference(
        value, metric.value(reference), drop, (100 * low, 100 * high), (b, c), mcnemar(b, c)
    )
