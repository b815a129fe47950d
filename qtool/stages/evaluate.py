"""evaluate: how good a model is on sample data, and how much worse than a reference."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from qtool.data import Sample, Samples, open_samples, read_preprocess
from qtool.errors import DataError, UsageError
from qtool.metrics import LABELS, REFERENCE, label_problem
from qtool.model import Json, Model, TensorSpec
from qtool.registry import lookup
from qtool.runtime import RUNTIMES, Runner
from qtool.runtime.sweep import sweep
from qtool.stages._evaluation import Report, gate, make_report
from qtool.stages._scoring import Scores, Task, choose_task, find_metric, score, wants_labels

Progress = Callable[[Iterable[Any], str, int | None], Iterable[Any]]
log = logging.getLogger("qtool")
REFERENCE_RUNTIME = "onnxruntime"


def untracked(items: Iterable[Any], label: str, total: int | None) -> Iterable[Any]:
    """Return the items: the progress of a library call is not shown."""
    return items


def evaluate(
    model: Model,
    *,
    data: Samples,
    reference: Model | Runner | None = None,
    metric: str | None = None,
    target: str | None = None,
    output: str | None = None,
    max_drop: float | None = None,
    confident: bool = False,
    runtime: str = "onnxruntime",
    threads: int | None = None,
    progress: Callable[[Iterable[Any], str, int | None], Iterable[Any]] = lambda items, _l, _t: (
        items
    ),
) -> Report:
    """Return how the model does on the data, and the paired drop from the reference.

    metric is a name of METRICS or module:function; by default top1 for class labels, rmse for
    other labels, and without labels agreement with the reference (sqnr if outputs are no
    classes). target is what outputs are compared with: labels, input or reference. max_drop is
    the budget that passed tells about; confident exceeds it only where the whole 95 % interval
    does. runtime, of RUNTIMES, runs the model; the reference runs in onnxruntime, if it does not
    run already. The result does not depend on threads.

    Raises:
        UsageError: the options do not go together, or with the data.
        DataError: samples, labels and outputs do not fit each other.
    """
    start, session_of = time.perf_counter(), lookup(RUNTIMES, runtime, "runtime")
    check_gate(reference is not None, max_drop, confident)
    sessions = [session_of(model, threads=1)]
    if reference is not None:
        sessions.append(reference_runner(reference))
    task = task_for(data, sessions, metric, target, output)
    if max_drop is not None:
        check_droppable(task)
    found: dict[int, list[Scores]] = {}

    def see(sample: Any, outputs: Mapping[str, Any]) -> None:
        other = sessions[1].run(sample.feeds) if reference is not None else None
        found[sample.index] = score(task, sample, outputs, other)

    loads, total = loads_of(data)
    threads = threads or available_cores()
    sweep(sessions[0], progress(loads, "evaluating", total), see, threads=threads)
    report = make_report(task, [found[i] for i in sorted(found)], runtime)
    passed, reason = gate(report, max_drop, confident)
    seconds = time.perf_counter() - start
    return replace(report, passed=passed, reason=reason, seconds=round(seconds, 3))


def reference_runner(reference: Model | Runner) -> Runner:
    """Return what runs a reference."""
    if isinstance(reference, Model):
        return RUNTIMES[REFERENCE_RUNTIME](reference, threads=1)
    return reference


def samples_for(
    model: Model,
    reference: Model | None = None,
    *,
    data: str | None,
    metric: str | None = None,
    target: str | None = None,
    preprocess: str | Mapping[str, Json] | None = None,
    **options: Any,
) -> Samples:
    """Return the samples of data that fit both models; options are open_samples'.

    Preprocessing is the given one, else the one that the model carries, else the reference's.

    Raises:
        DataError: the models take different inputs, or the data does not fit them.
    """
    theirs = None if reference is None else reference.preprocess
    if preprocess is None and differ(model.preprocess, theirs):
        log.warning("model and reference carry different preprocessing; both get the model's")
    return open_samples(
        data,
        common_inputs(model, reference),
        preprocess=preprocess or model.preprocess or theirs,
        labels=wants_labels(metric, target),
        **options,
    )


def check_request(
    metric: str | None,
    target: str | None,
    *,
    runtime: str = "onnxruntime",
    reference: bool = False,
    max_drop: float | None = None,
    confident: bool = False,
    preprocess: str | None = None,
) -> None:
    """Check what can be checked before anything is read.

    Raises:
        UsageError: a name is unknown, or the options do not go together.
    """
    lookup(RUNTIMES, runtime, "runtime")
    check_gate(reference, max_drop, confident)
    read_preprocess(preprocess, None)
    found = None if metric is None else find_metric(metric)
    if found is not None and target is not None and target not in found.against:
        raise UsageError(
            f"{metric} cannot be measured against {target}; only {' or '.join(found.against)}"
        )
    if found is not None and found.against == (REFERENCE,) and not reference:
        raise UsageError(f"{metric} needs --reference")
    if found is not None and max_drop is not None and (target or found.against[0]) == REFERENCE:
        check_droppable(Task(str(metric), found, REFERENCE, {}))


def check_gate(reference: bool, max_drop: float | None, confident: bool) -> None:
    """Raise UsageError where a budget lacks the reference, or confident the budget."""
    if confident and max_drop is None:
        raise UsageError("--confident says how to check a budget: give it with --max-drop")
    if max_drop is not None and not reference:
        raise UsageError("--max-drop compares with a reference: give it with --reference")


def check_droppable(task: Task) -> None:
    """Raise UsageError where a metric against the reference has no best value to drop from."""
    if task.target == REFERENCE and task.metric.perfect is None:
        raise UsageError(
            f"{task.name} against the reference has no best value to drop from; gate with "
            "--metric agreement, cosine, rmse or max-abs"
        )


def task_for(
    data: Samples,
    sessions: Sequence[Runner],
    metric: str | None,
    target: str | None,
    output: str | None,
) -> Task:
    """Return the task, after trying the first sample and checking the labels of all.

    Raises:
        UsageError, DataError: as evaluate does.
    """
    sample = data[0] if data.n is not None else next(iter(data))
    outputs = [session.run(sample.feeds) for session in sessions]
    reference = outputs[1] if len(outputs) > 1 else None
    task = choose_task(
        metric, target, output, sample=sample, outputs=outputs[0], reference=reference
    )
    score(task, sample, outputs[0], reference)
    labels = data.labels()
    if task.metric.hits and task.target == LABELS and labels is not None:
        problem = label_problem(labels, outputs[0][next(iter(task.outputs))])
        if problem is not None:
            raise DataError(f"{data[problem[0] // data.batch].where}: {problem[1]}")
    return task


def loads_of(data: Samples) -> tuple[Iterator[Callable[[], Sample]], int | None]:
    """Return functions that load the samples, and how many they are when known."""
    if data.n is None:
        return (partial(_same, sample) for sample in data), None
    return (partial(data.__getitem__, i) for i in range(len(data))), len(data)


def _same(sample: Sample) -> Sample:
    return sample


def common_inputs(model: Model, reference: Model | None) -> list[TensorSpec]:
    """Return the inputs of both models, with every size that one of them fixes.

    Raises:
        DataError: they differ in names, types or sizes.
    """
    specs = model.inputs()
    if reference is None:
        return specs
    others = {spec.name: spec for spec in reference.inputs()}
    if set(others) != {spec.name for spec in specs}:
        raise DataError(
            f"the model takes {', '.join(map(str, specs))}; the reference "
            f"{', '.join(map(str, others.values()))}; they must take the same inputs"
        )
    return [_common(spec, others[spec.name]) for spec in specs]


def _common(spec: TensorSpec, other: TensorSpec) -> TensorSpec:
    if spec.shape is None or other.shape is None:
        return spec if other.shape is None else other
    pairs = list(zip(spec.shape, other.shape, strict=False))
    if (
        spec.dtype != other.dtype
        or len(spec.shape) != len(other.shape)
        or any(isinstance(a, int) and isinstance(b, int) and a != b for a, b in pairs)
    ):
        raise DataError(f"the model takes {spec}, the reference {other}; they must be the same")
    return replace(spec, shape=tuple(a if isinstance(a, int) else b for a, b in pairs))


def differ(one: Mapping[str, Json] | None, other: Mapping[str, Json] | None) -> bool:
    """Tell whether two stored preprocessings are both there and not the same."""
    return bool(one) and bool(other) and dict(one or {}) != dict(other or {})


def available_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
