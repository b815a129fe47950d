"""METRICS: how good a model is, by name. One file each; `_metric.py` says what a metric is."""

from __future__ import annotations

from qtool.metrics import agreement, auc, cosine, max_abs, mse, rmse, sqnr, top1, top5
from qtool.metrics._custom import custom
from qtool.metrics._hits import label_problem
from qtool.metrics._metric import INPUT, LABELS, REFERENCE, TARGETS, Metric
from qtool.metrics._paired import Difference, difference

METRICS: dict[str, Metric] = {
    "top1": top1.METRIC,
    "top5": top5.METRIC,
    "auc": auc.METRIC,
    "mse": mse.METRIC,
    "rmse": rmse.METRIC,
    "sqnr": sqnr.METRIC,
    "cosine": cosine.METRIC,
    "max-abs": max_abs.METRIC,
    "agreement": agreement.METRIC,
}

__all__ = [
    "INPUT", "LABELS", "METRICS", "REFERENCE", "TARGETS",
    "Difference", "Metric", "custom", "difference", "label_problem",
]  # fmt: skip
