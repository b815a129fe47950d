"""What evaluate measures on which output, and the numbers that one sample gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from qtool.data import Sample
from qtool.data.plugin import load_function
from qtool.errors import DataError, QtoolError, UsageError
from qtool.metrics import INPUT, LABELS, METRICS, REFERENCE, Metric, custom, mse
from qtool.registry import lookup

Array = npt.NDArray[Any]
Outputs = Mapping[str, Array]


@dataclass(frozen=True)
class Task:
    """A metric, what it compares with, and the outputs it is of, with the reference's names."""

    name: str
    metric: Metric
    target: str
    outputs: Mapping[str, str]


@dataclass(frozen=True)
class Scores:
    """The rows of one output for one sample: the model's, the reference's, and agreement's."""

    rows: Array
    reference: Array | None
    same: Array | None
    nan: bool = False


def find_metric(name: str) -> Metric:
    """Return the metric of METRICS, or the one that a user's module:function makes.

    Raises:
        UsageError: there is no such metric or function.
    """
    return custom(load_function(name), name) if ":" in name else lookup(METRICS, name, "metric")


def wants_labels(metric: str | None, target: str | None) -> bool | None:
    """Return whether samples must have labels; None where they are used if there."""
    if metric is None:
        return None
    found = find_metric(metric)
    if target == LABELS or found.against == (LABELS,) or metric == "auc":
        return True
    return None if LABELS in found.against and target is None else False


def choose_task(
    metric: str | None,
    target: str | None,
    output: str | None,
    *,
    sample: Sample,
    outputs: Outputs,
    reference: Outputs | None,
) -> Task:
    """Return what to measure, looking at what the first sample gave.

    Raises:
        UsageError: what was asked for does not go together, or there is nothing to compare with.
    """
    names = _pair(outputs, reference)
    if output is not None:
        lookup(outputs, output, "output")
        names = {output: names[output]}
    if not names:
        raise DataError("the model has no outputs: there is nothing to measure")
    for asked in names:
        _require_rows(asked, outputs[asked])
    name = metric or _default_metric(sample, outputs[next(iter(names))], reference is not None)
    found = find_metric(name)
    first = outputs[next(iter(names))]
    target = _choose_target(name, found, target, sample, first, reference is not None)
    if target != REFERENCE and len(names) > 1:
        raise UsageError(
            f"the model has the outputs {', '.join(names)}; say which one {name} is of with "
            "--output-name"
        )
    return Task(name, found, target, names)


def _require_rows(name: str, output: Any) -> None:
    if not isinstance(output, np.ndarray) or output.size == 0:
        found = f"has shape {list(output.shape)}" if hasattr(output, "shape") else "is no tensor"
        raise DataError(
            f"output {name!r} {found}: nothing to measure; choose another with --output-name"
        )


def _pair(outputs: Outputs, reference: Outputs | None) -> dict[str, str]:
    """Return the reference's output for each output: of the same name, or in the same place."""
    if reference is None or set(outputs) <= set(reference):
        return {name: name for name in outputs}
    if len(outputs) != len(reference):
        raise DataError(
            f"the model's outputs are {', '.join(outputs)}, the reference's "
            f"{', '.join(reference)}; they must be the same"
        )
    return dict(zip(outputs, reference, strict=True))


def _default_metric(sample: Sample, output: Array, has_reference: bool) -> str:
    if sample.label is not None:
        one_each = sample.label.dtype.kind in "biu" and sample.label.size == sample.n
        return "top1" if one_each else "rmse"
    if not has_reference:
        raise UsageError("nothing to compare with: give --reference, or samples with labels")
    like_input = any(output.shape == feed.shape for feed in sample.feeds.values())
    return "agreement" if is_classes(output) and not like_input else "sqnr"


def is_classes(output: Array) -> bool:
    """Tell whether an output may hold one score per class: (n, 2 or more), but for axes of 1."""
    return sum(size > 1 for size in output.shape[1:]) == 1 and output.dtype.kind == "f"


def _choose_target(
    name: str, metric: Metric, target: str | None, sample: Sample, output: Array, paired: bool
) -> str:
    """Return the given target, or the usual one of the metric that is there."""
    there = {LABELS: sample.label is not None, INPUT: True, REFERENCE: paired}
    if target is not None:
        if target not in metric.against:
            raise UsageError(
                f"{name} cannot be measured against {target}; only {' or '.join(metric.against)}"
            )
        if not there[target]:
            needs = "samples with labels" if target == LABELS else "--reference"
            raise UsageError(f"{name} needs {needs}")
        return target
    if INPUT in metric.against and name != "auc":  # compares arrays, so a class label is no target
        there[LABELS] = sample.label is not None and sample.label.size == output.size
    there[INPUT] = False  # only when asked for
    if not any(there[t] for t in metric.against):
        ways = {LABELS: "samples with labels of the output's shape", REFERENCE: "--reference"}
        usual = [ways[t] for t in metric.against if t != INPUT]
        raise UsageError(f"{name} needs {' or '.join(usual)}")
    return next(t for t in metric.against if there[t])


def score(task: Task, sample: Sample, outputs: Outputs, reference: Outputs | None) -> list[Scores]:
    """Return the rows that one sample gives, for each output of the task.

    Raises:
        QtoolError: outputs and targets do not go together; names the sample.
    """
    try:
        return [
            _score(
                task,
                sample,
                rows_of(outputs[name], sample),
                None if reference is None else rows_of(reference[other], sample),
            )
            for name, other in task.outputs.items()
        ]
    except QtoolError as error:
        raise type(error)(f"{sample.where}: {error}") from error


def _score(task: Task, sample: Sample, output: Array, reference: Array | None) -> Scores:
    if reference is not None and reference.shape != output.shape:
        raise DataError(
            f"the output has shape {output.shape}, the reference's {reference.shape}; they must "
            "be the same"
        )
    same, nan = None, output.dtype.kind == "f" and bool(np.isnan(output).any())
    if reference is not None and is_classes(output):
        same = METRICS["agreement"].rows(output, reference)
    if task.target == REFERENCE and reference is not None:
        return Scores(task.metric.rows(output, reference), None, same, nan)
    rows = _against(task, sample, output)
    other = None if reference is None else _against(task, sample, reference)
    return Scores(rows, other, same, nan)


def _against(task: Task, sample: Sample, output: Array) -> Array:
    """Return the rows of an output against labels or input."""
    if task.target == INPUT:
        fed = rows_of(_fed(sample, output), sample)
        if task.name != "auc":
            return task.metric.rows(output, fed)
        errors = mse.rows(output, fed)  # the reconstruction error is the score
        output = errors[:, :1] / errors[:, 1:]
    if sample.label is None:
        raise DataError("there is no label")
    return task.metric.rows(output, sample.label)


def _fed(sample: Sample, output: Array) -> Array:
    """Return the input that an output reconstructs: the first of its size."""
    for feed in sample.feeds.values():
        if feed.size == output.size or feed.shape[1:] == output.shape[1:]:
            return feed
    raise DataError(
        f"no input has the output's shape {output.shape}; --target input is for models that "
        "reconstruct their input"
    )


def rows_of(values: Array, sample: Sample) -> Array:
    """Return the true samples' part of values, with an axis for samples in front."""
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "biuf":
        raise DataError("an output is not an array of numbers; choose another with --output-name")
    fed = max((f.shape[0] for f in sample.feeds.values() if f.ndim), default=1)
    if values.ndim and values.shape[0] in (fed, sample.n):
        return values[: sample.n]
    return values[None]
