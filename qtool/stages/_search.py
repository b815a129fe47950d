"""The search of tune: over a ladder of candidates, with paired evaluations."""

from __future__ import annotations

import logging
import math
import shutil
import threading
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from qtool import formats
from qtool.errors import UsageError
from qtool.formats.atomic import replacing
from qtool.stages._ladder import Bracket, Candidate, between
from qtool.stages._trials import (
    Journal,
    Progress,
    TimeUp,
    key_of,
    opened,
    quantized,
    run_trial,
    stoppable,
)

log = logging.getLogger("qtool.tune")  # heard while the stages inside keep silent


@dataclass(frozen=True)
class Trial:
    """One evaluated candidate. place: on the ladder; cost: predicted; drop as evaluate says it."""

    place: int
    layers: tuple[str, ...]
    cost: float
    bytes: int
    value: float
    drop: float
    drop_ci95: tuple[float, float] | None
    agreement: float | None
    passed: bool
    seconds: float
    remembered: bool = False  # of the journal, not run again


@dataclass(frozen=True)
class Setting:
    """What all trials share."""

    goal: str
    output: str
    split: tuple[str | None, str]  # what calibrates, and what measures
    opened: Mapping[str, Any]  # options of open_samples
    options: dict[str, Any]  # of quantize
    threads: int
    memory: int | None
    deadline: float | None
    progress: Progress

    @property
    def folder(self) -> Path:
        return Path(f"{self.output}.tune")


@dataclass
class Search:
    """A search under way."""

    candidates: list[Candidate]
    task: dict[str, Any]
    journal: Journal
    setting: Setting
    trials: list[Trial] = field(default_factory=list)
    best: Trial | None = None
    metric: str = ""

    @property
    def budget(self) -> float:
        return float(self.task["evaluation"]["max_drop"])

    @property
    def bracket(self) -> Bracket:
        """The last place inside the budget and what is beyond it; float is inside any."""
        known = {trial.place: self.tested(trial) for trial in self.trials}
        low = max((t.place for t in self.trials if t.passed), default=0)
        high = min((place for place in known if place > low), default=len(self.candidates))
        return Bracket(low, high, known.get(low, 0.0), known.get(high, math.nan))

    def tested(self, trial: Trial) -> float:
        """Return what is compared with the budget: the drop, or where its interval begins."""
        confident = self.task["evaluation"]["confident"] and trial.drop_ci95 is not None
        return trial.drop_ci95[0] if confident and trial.drop_ci95 else trial.drop

    def key(self, place: int) -> str:
        """Return the hash of a trial: of the model, the data, and what is done with them."""
        evaluation = {k: v for k, v in self.task["evaluation"].items() if k != "threads"}
        facts = self.task["hash"], self.task["calibration"], self.task["data"], evaluation
        return key_of(*facts, self.given(place), Path(self.setting.output).suffix)

    def given(self, place: int) -> dict[str, Any]:
        layers = list(self.candidates[place].layers)
        return {
            **self.setting.options,
            "layers": [*self.setting.options.get("layers", ()), *layers],
        }

    def artifact(self, place: int) -> Path:
        return (
            self.setting.folder
            / f"candidate-{self.key(place)[:12]}{Path(self.setting.output).suffix}"
        )

    def submit(self, pool: Executor, place: int) -> Future[dict[str, Any]]:
        task = {**self.task, "options": self.given(place), "artifact": str(self.artifact(place))}
        if isinstance(pool, ThreadPoolExecutor):
            return pool.submit(run_trial, task, self.setting.progress)
        return pool.submit(run_trial, task)

    def done(self, place: int, found: Mapping[str, Any], remembered: bool) -> None:
        """Take a trial's result: into the journal, and to the output where it is the best."""
        candidate = self.candidates[place]
        if not remembered:
            self.journal.add(self.key(place), {**found, "options": self.given(place)})
        ci, drop = found["drop_ci95"], found["drop"]
        trial = Trial(
            place, candidate.layers, candidate.cost, found["bytes"], found["value"],
            math.inf if drop is None else drop, None if ci is None else (ci[0], ci[1]),
            found["agreement"],
            bool(found["passed"]), found["seconds"], remembered,
        )  # fmt: skip
        self.metric = found["metric"]
        self.trials.append(trial)
        said = "within" if trial.passed else "beyond"
        again = " (known from the journal)" if remembered else f", {trial.seconds:.0f} s"
        log.info(
            "trial %d: %s bytes, %s %.2f, drop %.2f: %s the budget%s", len(self.trials),
            f"{trial.bytes:,}", found["metric"], trial.value, trial.drop, said, again,
        )  # fmt: skip
        if self.best is None or _better(trial, self.best, self.setting.goal):
            self.best = trial
            self.write(place)
        self.artifact(place).unlink(missing_ok=True)

    def write(self, place: int) -> None:
        """Make a candidate the output; it is made again where only the journal knows it."""
        artifact = self.artifact(place)
        if artifact.is_file():
            with open(artifact, "rb") as source, replacing(self.setting.output) as target:
                shutil.copyfileobj(source, target)
            return
        task = {**self.task, "options": self.given(place)}
        formats.save(quantized(opened(task["model"])[0], task), self.setting.output)


def search(run: Search, first: int, most: int, executor: Executor | None, jobs: int) -> str:
    """Close in on the last candidate inside the budget, and say why it ended.

    With jobs, in more parts at once. An interrupt stops the trials that run in threads.
    """
    places = [first]
    stop = threading.Event()
    run.setting = replace(run.setting, progress=stoppable(run.setting.progress, stop))
    pool = executor or ThreadPoolExecutor(jobs, thread_name_prefix="qtool-trial")
    try:
        while places:
            for place, found, remembered in _results(run, pool, places):
                run.done(place, found, remembered)
            left = most - len(run.trials)
            if not left:
                return "no more evaluations are allowed"
            if any(t.passed and t.place == len(run.candidates) - 1 for t in run.trials):
                return "the smallest candidate is inside the budget"
            places = between(run.candidates, run.bracket, run.budget, min(jobs, left))
        return "what is left to try would save less than 1 %"
    except TimeUp:
        if run.best is None:
            raise UsageError(
                "the time was over before the first trial ended; give more --time"
            ) from None
        return "the time is over"
    finally:
        stop.set()
        opened.cache_clear()
        if executor is None:
            pool.shutdown(cancel_futures=True)
        for left_over in run.setting.folder.glob("candidate-*"):
            left_over.unlink(missing_ok=True)


def _results(
    run: Search, pool: Executor, places: Sequence[int]
) -> Iterable[tuple[int, Mapping[str, Any], bool]]:
    """Yield what each place's trial found, those of the journal first."""
    waiting: dict[Future[dict[str, Any]], int] = {}
    for place in places:
        known = run.journal.found.get(run.key(place))
        if known is not None:
            yield place, known, True
        else:
            waiting[run.submit(pool, place)] = place
    try:
        while waiting:
            for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                yield waiting.pop(future), future.result(), False
    finally:
        for future in waiting:
            future.cancel()


def _better(trial: Trial, other: Trial, goal: str) -> bool:
    """Return whether a trial beats another: inside the budget first, then cheaper, then closer."""
    if trial.passed != other.passed:
        return trial.passed
    if not trial.passed:
        return trial.drop < other.drop
    return (_price(trial, goal), trial.drop) < (_price(other, goal), other.drop)


def _price(trial: Trial, goal: str) -> float:
    return trial.bytes if goal == "size" else trial.cost


def curve(trials: Iterable[Trial], goal: str) -> tuple[Trial, ...]:
    """Return the trials that no other beats in both price and drop, the cheapest first."""
    found: list[Trial] = []
    for trial in sorted(trials, key=lambda t: (_price(t, goal), t.drop)):
        if not found or trial.drop < found[-1].drop:
            found.append(trial)
    return tuple(found)
