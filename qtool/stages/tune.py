"""tune: the smallest or fastest model inside an accuracy budget, in few evaluations."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from signal import SIGINT
from typing import Any

from qtool import formats
from qtool.data.held import hold
from qtool.data.state import state_of
from qtool.errors import FormatError, QtoolError, UsageError
from qtool.formats.atomic import replacing
from qtool.metrics import REFERENCE
from qtool.model import Json, Model, fingerprint
from qtool.quant.knapsack import Choice
from qtool.registry import lookup
from qtool.runtime.memory import peak_bytes, resident_bytes, session_bytes
from qtool.stages._json import finite
from qtool.stages._ladder import BASE, GOALS, ladder, read_choices
from qtool.stages._pipeline import commands
from qtool.stages._search import Search, Setting, Trial, curve, log, search
from qtool.stages._trials import Journal, Progress, TimeUp, is_result, key_of, until
from qtool.stages.calibrate import calibrate, untracked
from qtool.stages.evaluate import (
    available_cores,
    check_droppable,
    reference_runner,
    samples_for,
    task_for,
)
from qtool.stages.mixed import choices

MOST_TRIALS = 8
HELD = 32  # samples that tell what each type of each layer loses
EVERY = 4  # of one data set, each EVERY-th sample calibrates and the others measure


@dataclass(frozen=True)
class Tuning:
    """What tune found. best: None where no candidate is inside the budget.

    curve: of the trials, those that no other one beats in both size and drop. commands: the same
    model made by hand.
    """

    goal: str
    metric: str
    max_drop: float
    trials: tuple[Trial, ...]
    best: Trial | None
    curve: tuple[Trial, ...]
    commands: tuple[str, ...]
    n_candidates: int
    ended: str  # why the search ended
    seconds: float
    peak_bytes: int

    def to_json(self) -> dict[str, Json]:
        """Return the tuning as a JSON object."""
        found: dict[str, Json] = finite(asdict(self))
        return found


def tune(
    model: Model,
    *,
    data: str,
    output: str,
    max_drop: float,
    goal: str = "size",
    calibration: str | None = None,
    metric: str | None = None,
    target: str | None = None,
    confident: bool = False,
    trials: int = MOST_TRIALS,
    seconds: float | None = None,
    memory: int | None = None,
    threads: int | None = None,
    executor: Executor | None = None,
    jobs: int = 1,
    name: str = "model.onnx",
    sampling: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    progress: Progress = untracked,
) -> Tuning:
    """Write the best quantized model whose metric drops by at most max_drop to output.

    Layers get float, 8 or 4-bit weights (goal size) or float or integers (goal latency). What each
    loses alone and a knapsack make a ladder of candidates, in which at most `trials` paired
    evaluations look for the cheapest one inside the budget. output always holds the best so far,
    OUTPUT.tune/ the journal: the same call again goes on where it was.

    data: as for open_samples. calibration: samples to calibrate on; by default each EVERY-th of
    data, and the others measure. sampling: more options of open_samples. options: of quantize, for
    all candidates. executor runs trials, jobs at a time; tasks are JSON objects with paths. name:
    what the model is called in the commands that make the result by hand.

    Raises:
        UsageError: the options contradict each other, or memory or seconds are too little.
    """
    lookup(dict.fromkeys(GOALS), goal, "goal")
    start = time.monotonic()
    deadline = None if seconds is None else time.time() + seconds
    threads = _threads(model, threads or available_cores(), memory)
    split = _split(model, data, calibration)
    evaluation = {
        "metric": metric, "target": target, "max_drop": max_drop, "confident": confident,
        "threads": threads,
    }  # fmt: skip
    with _quiet():
        setting = Setting(
            goal, output, split, dict(sampling or {}), dict(options or {}), threads, memory,
            deadline, progress,
        )  # fmt: skip
        try:
            run, first = _prepared(model, setting, evaluation)
        except TimeUp:
            raise UsageError(
                f"{seconds:g} s were over before the first trial; give more --time"
            ) from None
        log.info(
            "%d candidates, %d at most to evaluate; the first: all layers %s",
            len(run.candidates), trials, BASE,
        )  # fmt: skip
        try:
            ended = search(run, first, trials, executor, jobs)
        except KeyboardInterrupt as error:
            if run.best is None:
                raise
            signum = error.args[0] if error.args else SIGINT
            raise KeyboardInterrupt(
                signum, f"{output} holds the best so far; the same command again goes on"
            ) from None
    best = run.best if run.best is not None and run.best.passed else None
    return Tuning(
        goal=goal,
        metric=run.metric,
        max_drop=max_drop,
        trials=tuple(run.trials),
        best=best,
        curve=curve(run.trials, goal),
        commands=commands(best, name, setting, max_drop),
        n_candidates=len(run.candidates),
        ended=ended,
        seconds=round(time.monotonic() - start, 2),
        peak_bytes=peak_bytes(),
    )


def _prepared(model: Model, setting: Setting, evaluation: dict[str, Any]) -> tuple[Search, int]:
    """Return the search, and the place on its ladder to begin with."""
    source, measures = setting.split
    _try_one(model, setting, evaluation)
    _make_folder(setting.folder)
    path, calibrated = _calibrated(model, setting)
    candidates, first = ladder(_choices(calibrated, setting))
    task = {
        "model": str(path), "hash": key_of(path.stem, state_of(measures)),
        "data": {**setting.opened, "data": measures},
        "calibration": source and {**setting.opened, "data": source},
        "evaluation": evaluation, "deadline": setting.deadline,
    }  # fmt: skip
    journal = Journal(setting.folder / "journal.jsonl", is_result)
    return Search(candidates, task, journal, setting), first


def _try_one(model: Model, setting: Setting, evaluation: dict[str, Any]) -> None:
    """Try the float model on a sample that measures, before minutes go into calibration.

    Raises:
        UsageError, DataError: as evaluate does.
    """
    metric, target = evaluation["metric"], evaluation["target"]
    data = samples_for(model, data=setting.split[1], metric=metric, target=target, **setting.opened)
    task = task_for(data, [reference_runner(model)] * 2, metric, target, None)
    check_droppable(task)
    if metric is None and task.target == REFERENCE:
        log.info("there are no labels: %s with the float model is measured", task.name)


def _make_folder(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise QtoolError(f"{folder} is a file, and tune keeps its journal in a folder of that name")
    folder.mkdir(exist_ok=True)


@contextmanager
def _quiet() -> Iterator[None]:
    """Let only tune's own lines be heard, and the warnings of the stages inside."""
    outer = logging.getLogger("qtool")
    level, own = outer.level, log.level
    log.setLevel(outer.getEffectiveLevel())
    if level > logging.DEBUG:
        outer.setLevel(max(level, logging.WARNING))
    try:
        yield
    finally:
        outer.setLevel(level)
        log.setLevel(own)


def _split(model: Model, data: str, calibration: str | None) -> tuple[str | None, str]:
    """Return what calibrates (None: the statistics that the model has) and what measures."""
    if calibration is not None:
        return calibration, data
    known = model.statistics
    if known is not None and known.grams and known.model == fingerprint(model):
        return None, data
    if data.endswith("]"):
        raise UsageError(
            f"{data} is a part already: say with --calibration which other samples to calibrate on"
        )
    log.info("each %dth sample calibrates, the others measure", EVERY)
    return f"{data}[::{EVERY}]", f"{data}[!::{EVERY}]"


def _calibrated(model: Model, setting: Setting) -> tuple[Path, Model]:
    """Return the calibrated model and where it is; it is made once."""
    source = setting.split[0]
    facts = fingerprint(model), source, state_of(source), setting.opened, model.preprocess
    path = setting.folder / f"calibrated-{key_of(*facts)[:16]}.qtm"
    if path.is_file():
        try:
            known = formats.load(path)
        except FormatError as error:
            log.warning("calibrating again: %s", error)
        else:
            log.info("calibrated before: %s", path)
            return path, known
    made = model
    if source is not None:
        samples = samples_for(model, data=source, metric="agreement", **setting.opened)
        made = calibrate(
            model, data=samples, gram=True, memory=setting.memory, threads=setting.threads,
            progress=until(setting.deadline, setting.progress),
        )  # fmt: skip
    formats.save(made, path)
    return path, formats.load(path)


def _choices(model: Model, setting: Setting) -> dict[str, list[Choice]]:
    """Return what each type costs and loses in each layer; measured once.

    On samples that did not calibrate: weights of few bits fit those better than any others.
    """
    source, opened = setting.split[1], setting.opened
    cost, types = GOALS[setting.goal]
    read = source, state_of(source), opened, HELD
    key = key_of(fingerprint(model), read, setting.options, cost, types)[:16]
    path = setting.folder / f"choices-{key}.json"
    known = read_choices(path)
    if known is not None:
        return known
    data = hold(samples_for(model, data=source, metric="agreement", **opened), HELD)
    found = choices(
        model, types=types, cost=cost, data=data, threads=setting.threads,
        progress=until(setting.deadline, setting.progress), **setting.options,
    )  # fmt: skip
    with replacing(path) as file:
        plain = {name: [astuple(choice) for choice in made] for name, made in found.items()}
        file.write(json.dumps(plain, indent=1).encode())
    return found


def _threads(model: Model, threads: int, memory: int | None) -> int:
    """Return how many threads the memory allows.

    Raises:
        UsageError: not even one.
    """
    if memory is None:
        return threads
    for n in range(threads, 0, -1):
        needed = resident_bytes() + 2 * session_bytes(model, [], n)
        if needed <= memory:
            return n
    raise UsageError(f"--memory is too little: about {needed / 1e6:.0f}M are needed")
