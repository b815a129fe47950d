"""tune: the smallest or fastest model inside an accuracy budget, in few evaluations."""

from __future__ import annotations

import json
import logging
import math
import shlex
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from qtool import formats
from qtool.data.held import hold
from qtool.errors import UsageError
from qtool.formats.atomic import replacing
from qtool.model import Json, Model, fingerprint
from qtool.registry import lookup
from qtool.runtime.memory import peak_bytes, resident_bytes, session_bytes
from qtool.stages._ladder import BASE, GOALS, Candidate, between, ladder
from qtool.stages._trials import (
    Journal,
    Progress,
    TimeUp,
    key_of,
    quantize_options,
    run_trial,
    until,
)
from qtool.stages.calibrate import calibrate, untracked
from qtool.stages.evaluate import available_cores, samples_for
from qtool.stages.mixed import importance
from qtool.stages.sensitivity import finite

log = logging.getLogger("qtool.tune")  # heard while the stages inside keep silent

MOST_TRIALS = 8
HELD = 16  # samples that tell how much each layer's noise matters
EVERY = 4  # of one data set, each EVERY-th sample calibrates and the others measure


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


@dataclass
class _Run:
    """A search under way."""

    candidates: list[Candidate]
    task: dict[str, Any]
    journal: Journal
    setting: _Setting
    trials: list[Trial] = field(default_factory=list)
    best: Trial | None = None
    metric: str = ""

    def key(self, place: int) -> str:
        """Return the hash of a trial: of the model, the data, and what is done with them."""
        evaluation = {k: v for k, v in self.task["evaluation"].items() if k != "threads"}
        facts = self.task["hash"], self.task["data"], evaluation
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
        from qtool.stages.quantize import quantize

        made = quantize(formats.load(self.task["model"]), **quantize_options(self.given(place)))
        formats.save(made, self.setting.output)


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

    Layers get float, 8 or 4-bit weights (goal size) or float or integers (goal latency). The
    predicted loss of each and a knapsack make a ladder of candidates, in which bisection with at
    most `trials` paired evaluations looks for the cheapest one inside the budget. output always
    holds the best so far, OUTPUT.tune/ the journal: the same call again goes on where it was.

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
        setting = _Setting(
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
            "%d candidates; at most %d evaluations; the first: all layers %s",
            len(run.candidates), trials, BASE,
        )  # fmt: skip
        try:
            ended = _search(run, first, trials, executor, jobs)
        except KeyboardInterrupt:
            if run.best is not None:
                log.warning("%s holds the best so far; the same command again goes on", output)
            raise
    best = run.best if run.best is not None and run.best.passed else None
    return Tuning(
        goal=goal,
        metric=run.metric,
        max_drop=max_drop,
        trials=tuple(run.trials),
        best=best,
        curve=curve(run.trials, goal),
        commands=_commands(run, best, name, setting, max_drop),
        n_candidates=len(run.candidates),
        ended=ended,
        seconds=round(time.monotonic() - start, 2),
        peak_bytes=peak_bytes(),
    )


@dataclass(frozen=True)
class _Setting:
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


def _prepared(model: Model, setting: _Setting, evaluation: dict[str, Any]) -> tuple[_Run, int]:
    """Return the search, and the place on its ladder to begin with."""
    setting.folder.mkdir(parents=True, exist_ok=True)
    path, calibrated = _calibrated(model, setting)
    shares = _importance(calibrated, setting)
    candidates, first = ladder(calibrated, goal=setting.goal, importance=shares, **setting.options)
    task = {
        "model": str(path), "hash": path.stem, "data": {**setting.opened, "data": setting.split[1]},
        "evaluation": evaluation, "deadline": setting.deadline,
    }  # fmt: skip
    journal = Journal(setting.folder / "journal.jsonl")
    return _Run(candidates, task, journal, setting), first


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


def _search(run: _Run, first: int, most: int, executor: Executor | None, jobs: int) -> str:
    """Bisect until the best is known, and say why it ended; with jobs, in more parts at once."""
    passed, failed = 0, len(run.candidates)  # the float model is inside any budget
    places = [first]
    pool = executor or ThreadPoolExecutor(jobs, thread_name_prefix="qtool-trial")
    try:
        while places:
            for place, found, remembered in _results(run, pool, places):
                run.done(place, found, remembered)
                if found["passed"]:
                    passed = max(passed, place)
                else:
                    failed = min(failed, place)
            left = most - len(run.trials)
            if not left:
                return f"{most} evaluations"
            known = {trial.place for trial in run.trials}
            places = between(run.candidates, passed, max(failed, passed + 1), min(jobs, left))
            places = [place for place in places if place not in known]
            if passed == len(run.candidates) - 1:
                return "the smallest candidate is inside the budget"
        return "what is left to try would save less than 1 %"
    except TimeUp:
        if run.best is None:
            raise UsageError(
                "the time was over before the first trial ended; give more --time"
            ) from None
        return "the time is over"
    finally:
        if executor is None:
            pool.shutdown(cancel_futures=True)


def _results(
    run: _Run, pool: Executor, places: Sequence[int]
) -> Iterable[tuple[int, Mapping[str, Any], bool]]:
    """Yield what each place's trial found, those of the journal first."""
    waiting: dict[Future[dict[str, Any]], int] = {}
    for place in places:
        known = run.journal.found.get(run.key(place))
        if known is not None:
            yield place, known, True
        else:
            waiting[run.submit(pool, place)] = place
    while waiting:
        for future in wait(waiting, return_when=FIRST_COMPLETED).done:
            yield waiting.pop(future), future.result(), False


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


def _calibrated(model: Model, setting: _Setting) -> tuple[Path, Model]:
    """Return the calibrated model and where it is; it is made once."""
    source = setting.split[0]
    key = key_of(fingerprint(model), source, setting.opened, model.preprocess)[:16]
    path = setting.folder / f"calibrated-{key}.qtm"
    if path.is_file():
        log.info("calibrated before: %s", path)
        return path, formats.load(path)
    made = model
    if source is not None:
        samples = samples_for(model, data=source, metric="agreement", **setting.opened)
        made = calibrate(
            model, data=samples, gram=True, memory=setting.memory, threads=setting.threads,
            progress=until(setting.deadline, setting.progress),
        )  # fmt: skip
    formats.save(made, path)
    return path, formats.load(path)


def _importance(model: Model, setting: _Setting) -> dict[str, float]:
    """Return how much the noise of each layer matters at the outputs; measured once."""
    source, opened = setting.split[0] or setting.split[1], setting.opened
    key = key_of(fingerprint(model), source, opened, setting.options, HELD)[:16]
    path = setting.folder / f"importance-{key}.json"
    if path.is_file():
        known: dict[str, float] = json.loads(path.read_text(encoding="utf-8"))
        return known
    held = hold(samples_for(model, data=source, metric="agreement", **opened), HELD)
    watched = until(setting.deadline, setting.progress)
    found = importance(model, held, threads=setting.threads, progress=watched, **setting.options)
    with replacing(path) as file:
        file.write(json.dumps(found, indent=1).encode())
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


def _commands(
    run: _Run,
    best: Trial | None,
    name: str,
    setting: _Setting,
    max_drop: float,
) -> tuple[str, ...]:
    """Return the shell pipeline that makes the best model, and writes its --layers-from file."""
    if best is None:
        return ()
    listed, split = Path(f"{setting.output}.layers"), setting.split
    lines = ["# types of layers, for quantize --layers-from", *best.layers]
    with replacing(listed) as file:
        file.write(("\n".join(lines) + "\n").encode())
    reading, extra = _typed(setting.opened), _typed(setting.options)
    source, made = (shlex.quote(t) for t in (name, setting.output))
    static = source
    found = []
    if split[0] is not None:
        static = "calibrated.qtm"
        found.append(
            f"qtool calibrate --input {source} --data {shlex.quote(split[0])}{reading} --gram "
            f"--output {static}"
        )
    found.append(
        f"qtool quantize --input {static}{extra} --layers-from {shlex.quote(str(listed))} "
        f"--output {made}"
    )
    found.append(
        f"qtool evaluate --input {made} --reference {source} --data {shlex.quote(split[1])}"
        f"{reading} --max-drop {max_drop:g}"
    )
    return tuple(found)


def _typed(options: Mapping[str, Any]) -> str:
    """Return options as they are typed, each with a space in front."""
    words = []
    for key, value in options.items():
        flag = f"--{key.replace('_', '-')}"
        if key == "per_channel":
            words.append("--per-channel" if value else "--per-tensor")
        elif isinstance(value, (list, tuple)):
            words += [f"{flag} {shlex.quote(str(v))}" for v in value]
        else:
            words.append(flag if value is True else f"{flag} {shlex.quote(str(value))}")
    return "".join(f" {word}" for word in words)
