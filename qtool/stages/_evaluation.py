"""The report of evaluate, and the gate."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from qtool.errors import DataError
from qtool.metrics import METRICS, REFERENCE, Difference, Metric, difference
from qtool.model import Json
from qtool.stages._json import finite
from qtool.stages._scoring import Scores, Task

Array = npt.NDArray[Any]
log = logging.getLogger("qtool")


@dataclass(frozen=True)
class Report:
    """What evaluate found. Metrics and drops are in the metric's unit: percent for hits, dB, ...

    drop > 0: the model is worse than the reference, by that much; None where the metric has no
    such notion. passed: None without a budget. outputs: the value of each output.
    """

    metric: str
    value: float
    n: int
    reference: float | None = None
    drop: float | None = None
    drop_ci95: tuple[float, float] | None = None
    agreement: float | None = None
    passed: bool | None = None
    reason: str | None = None
    runtime: str = "onnxruntime"
    seconds: float = 0.0
    unit: str = ""
    p_value: float | None = None
    discordant: tuple[int, int] | None = None
    outputs: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Json]:
        """Return the report as a JSON object; what is not a finite number is null."""
        return {key: finite(value) for key, value in asdict(self).items()}

    def table(self) -> list[tuple[str, str]]:
        """Return what was found as rows of a table."""
        unit = f" {self.unit}" if self.unit else ""
        points = " points" if self.unit == "%" else unit
        rows = [(self.metric, f"{_digits(self.value)}{unit}")]
        if len(self.outputs) > 1:
            rows += [(f"  {name}", f"{_digits(v)}{unit}") for name, v in self.outputs.items()]
        if self.reference is not None:
            rows.append(("reference", f"{_digits(self.reference)}{unit}"))
        if self.drop is not None:
            rows.append(("drop", f"{_digits(self.drop)}{points}"))
        if self.drop_ci95 is not None:
            rows.append(("drop, 95 % interval", " to ".join(map(_digits, self.drop_ci95)) + points))
        if self.agreement is not None and self.metric != "agreement":
            rows.append(("agreement", f"{_digits(self.agreement)} %"))
        return [*rows, ("samples", str(self.n)), ("seconds", f"{self.seconds:.2f}")]


def make_report(task: Task, scores: Sequence[Sequence[Scores]], runtime: str) -> Report:
    """Return the report of all samples' scores; of several outputs, the worst counts."""
    found = {}
    for place, name in enumerate(task.outputs):
        mine = [of_sample[place] for of_sample in scores]
        rows = np.concatenate([s.rows for s in mine])
        others = [s.reference for s in mine if s.reference is not None]
        n_nan = sum(s.nan for s in mine)
        if n_nan:
            log.warning("output %s holds NaN for %d of %d samples", name, n_nan, len(mine))
        same = [s.same for s in mine if s.same is not None]
        found[name] = (
            compare(task, rows, np.concatenate(others) if others else None),
            len(rows),
            METRICS["agreement"].value(np.concatenate(same)) if same else None,
        )
    values = {name: of_output[0].value for name, of_output in found.items()}
    worst = min(values, key=lambda name: _badness(task.metric, values[name]))
    result, n, agreement = found[worst]
    if task.name == "auc" and math.isnan(result.value):
        raise DataError("auc needs samples of both classes, labelled 0 and 1; all are of one")
    if result.value == math.inf:
        log.info("output %s is equal to its target: the %s is infinite", worst, task.name)
    return Report(
        metric=task.name,
        value=result.value,
        n=n,
        reference=result.reference,
        drop=result.drop,
        drop_ci95=result.ci95,
        agreement=agreement,
        runtime=runtime,
        unit=task.metric.unit,
        p_value=result.p_value,
        discordant=result.discordant,
        outputs=values,
    )


def compare(task: Task, rows: Array, reference: Array | None) -> Difference:
    """Return the value of a task's rows, and the drop where there is something to drop from."""
    if reference is None and task.target != REFERENCE:
        return Difference(task.metric.value(rows), None, None, None)
    return difference(task.metric, rows, reference)


def _badness(metric: Metric, value: float) -> float:
    if math.isnan(value):
        return -math.inf
    return value if metric.higher_is_better else -value


def gate(report: Report, max_drop: float | None, confident: bool) -> tuple[bool | None, str | None]:
    """Return whether the drop is within the budget, and in words why."""
    if max_drop is None:
        return None, None
    if report.drop is None or math.isnan(report.drop):
        return False, f"{report.metric} is not a number, so its drop is unknown"
    points = " points" if report.unit == "%" else f" {report.unit}" if report.unit else ""
    low, high = report.drop_ci95 or (report.drop, report.drop)
    known = f" (95 % interval {_digits(low)} to {_digits(high)})" if report.drop_ci95 else ""
    reason = (
        f"{report.metric} drops by {_digits(report.drop)}{points}{known} on {report.n} samples; "
        f"the budget is {_digits(max_drop)}"
    )
    if confident and report.drop_ci95 is None:
        log.warning("there is no interval of this drop; --confident looks at the drop itself")
    elif confident and low <= max_drop < high:
        log.warning(
            "%d samples are too few to tell whether the budget is kept: %s", report.n, reason
        )
    return (low if confident else report.drop) <= max_drop, reason


def _digits(value: float) -> str:
    return f"{value:.2f}" if abs(value) >= 10 or value == 0 else f"{value:.4g}"
