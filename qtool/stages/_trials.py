"""One trial of tune, and the journal that keeps what trials found.

A task is a JSON object, so that a trial can run in another process or on another machine that sees
the same files.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from qtool.errors import QtoolError
from qtool.model import Model
from qtool.runtime import Runner

log = logging.getLogger("qtool")

Task = dict[str, Any]
Progress = Callable[[Iterable[Any], str, "int | None"], Iterable[Any]]


class TimeUp(QtoolError):
    """The time that a user gave is over."""


def run_trial(task: Task, progress: Progress | None = None) -> dict[str, Any]:
    """Return what a candidate is worth: quantize, write the artifact, evaluate it paired.

    An artifact that is there, of a search that was stopped while it measured, is taken as it is.

    task: model (path of the calibrated model), options (of quantize), artifact (path to write),
    calibration (of samples_for: what biases are corrected on; or None), data (of samples_for: what
    measures), evaluation (of evaluate), deadline (seconds since 1970, or None).

    Raises:
        TimeUp: the deadline has passed.
    """
    from qtool import formats
    from qtool.stages.evaluate import evaluate, samples_for

    start = time.monotonic()
    model, reference = opened(task["model"])
    if not os.path.isfile(task["artifact"]):  # a search that was stopped while it measured
        formats.save(quantized(model, task, progress), task["artifact"])
    candidate = formats.load(task["artifact"])
    evaluation = dict(task["evaluation"])
    asked = {k: evaluation.get(k) for k in ("metric", "target")}
    report = evaluate(
        candidate,
        data=samples_for(candidate, model, **task["data"], **asked),
        reference=reference,
        progress=until(task["deadline"], progress),
        **evaluation,
    )
    found = report.to_json()
    kept = ("metric", "unit", "n", "value", "reference", "drop", "drop_ci95", "agreement", "passed")
    return {
        **{key: found[key] for key in kept},
        "bytes": os.path.getsize(task["artifact"]),
        "seconds": round(time.monotonic() - start, 2),
    }


@lru_cache(maxsize=1)
def opened(path: str) -> tuple[Model, Runner]:
    """Return the model of a file, and what runs it: outputs that a trial asked for are kept."""
    from qtool import formats
    from qtool.runtime.remembered import Remembered
    from qtool.stages.evaluate import reference_runner

    model = formats.load(path)
    return model, Remembered(reference_runner(model))


def quantized(model: Model, task: Task, progress: Progress | None = None) -> Model:
    """Return the candidate of a task, its biases corrected where there are samples for that."""
    from qtool.stages.evaluate import samples_for
    from qtool.stages.quantize import quantize

    given: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in task["options"].items()
    }
    source = task["calibration"]
    data = None if source is None else samples_for(model, metric="agreement", **source)
    threads, watched = task["evaluation"]["threads"], until(task["deadline"], progress)
    given |= {"data": data, "threads": threads, "check": False, "progress": watched}
    return quantize(model, **given)


def until(deadline: float | None, progress: Progress | None = None) -> Progress:
    """Return a progress that raises TimeUp when the deadline passes between two samples."""

    def limited(items: Iterable[Any], label: str, total: int | None) -> Iterator[Any]:
        for item in items if progress is None else progress(items, label, total):
            if deadline is not None and time.time() > deadline:
                raise TimeUp("the time is over")
            yield item

    return limited


def stoppable(progress: Progress, stop: threading.Event) -> Progress:
    """Return a progress that raises TimeUp between two samples once stop is set."""

    def watched(items: Iterable[Any], label: str, total: int | None) -> Iterator[Any]:
        for item in progress(items, label, total):
            if stop.is_set():
                raise TimeUp("the search has ended")
            yield item

    return watched


def key_of(*facts: Any) -> str:
    """Return a hash of JSON facts: equal trials have equal keys."""
    text = json.dumps(facts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


class Journal:
    """The results of trials by key: a file of JSON objects, one a line; a torn line is lost."""

    def __init__(self, path: Path, is_result: Callable[[Any], bool] = bool) -> None:
        """Read what there is; what is_result says no to is lost, too."""
        self.path = path
        self.found: dict[str, dict[str, Any]] = {}
        if path.is_file():
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
                with suppress(ValueError):
                    entry = json.loads(line)
                    if _has_key(entry) and is_result(entry):
                        self.found[entry["key"]] = entry

    def add(self, key: str, entry: dict[str, Any]) -> None:
        """Keep an entry, on the disk when this returns."""
        self.found[key] = entry
        with open(self.path, "a+b") as file:
            if file.tell() and not _ends_a_line(file):
                file.write(b"\n")
            file.write(json.dumps({"key": key, **entry}).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())


def has_figures(entry: Mapping[str, Any]) -> bool:
    """Return whether an entry says if a trial passed, and what it says of its drop are numbers."""
    ends = entry.get("drop_ci95")
    if ends is not None and not (isinstance(ends, list) and len(ends) == 2):
        return False
    figures = [entry.get("drop"), entry.get("agreement"), *(ends or ())]
    return isinstance(entry.get("passed"), bool) and all(
        figure is None or isinstance(figure, (int, float)) for figure in figures
    )


def is_result(entry: Mapping[str, Any]) -> bool:
    """Return whether an entry has all that run_trial finds."""
    return (
        has_figures(entry)
        and {"drop", "drop_ci95", "agreement"} <= entry.keys()
        and isinstance(entry.get("metric"), str)
        and all(isinstance(entry.get(name), (int, float)) for name in ("bytes", "value", "seconds"))
    )


def _has_key(entry: Any) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("key"), str)


def _ends_a_line(file: Any) -> bool:
    file.seek(-1, os.SEEK_END)
    return bool(file.read(1) == b"\n")
