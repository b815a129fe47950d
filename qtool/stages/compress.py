"""compress: the smallest packed model inside a budget, chosen from statistics."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from qtool import formats
from qtool.errors import CheckFailed, DataError, UnsupportedError, UsageError
from qtool.formats.atomic import replacing
from qtool.model import Json, Model, fingerprint
from qtool.runtime.trial import check_runs
from qtool.stages import _plot
from qtool.stages._followed import some
from qtool.stages._options import changed
from qtool.stages._trials import Journal, has_figures, key_of
from qtool.stages.calibrate import Progress, calibrate, untracked
from qtool.stages.cluster import (
    Clustering,
    Options,
    Sized,
    check_size,
    clusterable,
    float_bytes,
    sensitivities,
)
from qtool.stages.evaluate import evaluate, samples_for

log = logging.getLogger("qtool")

MOST_TRIALS = 10
EVERY = 4  # of one data set, each EVERY-th sample calibrates and the others measure
FIRST_RATIO = 6.0
STEP = 1.25  # of the size, while no trial fails, or none passes
NEAR = 1.02  # sizes so near each other end the search
VERSION = 2  # 2: layers make up for those before them


@dataclass(frozen=True)
class Trial:
    """One evaluated model. slope: cost at the outputs per bit, which says how coarse it is."""

    slope: float
    bytes: int
    ratio: float
    drop: float | None
    drop_ci95: tuple[float, float] | None
    agreement: float | None
    passed: bool
    chosen: bool = False


@dataclass(frozen=True)
class Compressed:
    """The model that was chosen, its recipe, and every trial, by size."""

    model: Model
    recipe: Mapping[str, Json]
    trials: Sequence[Trial]
    metric: str = ""

    def to_json(self) -> dict[str, Json]:
        """Return the trade-off as a JSON object."""
        trials = [asdict(trial) for trial in self.trials]
        return {"metric": self.metric, "recipe": dict(self.recipe), "trials": trials}


@dataclass(frozen=True)
class Budget:
    """What was asked for; one of the three, the names are those of the command line."""

    max_drop: float | None = None
    target_size: int | None = None
    target_ratio: float | None = None

    def asked(self) -> dict[str, Json]:
        """Return what was asked for, for the history."""
        return {key: value for key, value in asdict(self).items() if value is not None}

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            UsageError: there is not exactly one, or it is impossible.
        """
        given = [x for x in (self.max_drop, self.target_size, self.target_ratio) if x is not None]
        if len(given) != 1:
            raise UsageError("give one of --max-drop, --target-size and --target-ratio")
        if self.target_ratio is not None and not self.target_ratio > 1:
            raise UsageError(f"--target-ratio {self.target_ratio:g} is not above 1")
        if self.target_size is not None and self.target_size <= 0:
            raise UsageError(f"--target-size {self.target_size} is not positive")
        if self.max_drop is not None and not self.max_drop >= 0:
            raise UsageError(f"--max-drop {self.max_drop:g} is negative")


def compress(
    model: Model,
    *,
    data: str,
    output: str | Path,
    budget: Budget,
    calibration: str | None = None,
    sampling: Mapping[str, Any] | None = None,
    only: tuple[str, ...] = (),
    exclude: tuple[str, ...] = (),
    trials: int = MOST_TRIALS,
    max: bool = False,
    threads: int | None = None,
    progress: Progress = untracked,
) -> Compressed:
    """Write the smallest packed model of the budget to output; return it, recipe and trials.

    Statistics decide: one slope (cost at the outputs per bit) sets the grid of every layer. At most
    `trials` models are evaluated on data (as for open_samples). Without Gram statistics, the
    samples of `calibration`, or each EVERY-th of data, are run for them first. The best model so
    far is always in output, and output + ".trials" keeps what trials found, for the next run.

    Raises:
        CheckFailed: no model met the budget; the best is in output.
        UnsupportedError: there is no weight to compress, or no file so small.
    """
    work = _Work(model, data, calibration, dict(sampling or {}), threads, progress)
    work.prepare(Options(method="grid", bits=8, only=only, exclude=exclude))
    asked = {
        **budget.asked(), **_given({"only": only, "exclude": exclude}),
        **({"trials": trials} if trials != MOST_TRIALS else {}), **({"max": True} if max else {}),
        **({"calibration": True} if work.apart else {}),
    }  # fmt: skip
    search = _Search(work, budget, Path(output), trials, asked)
    search.run()
    return search.result()


def replay(
    model: Model,
    recipe: Mapping[str, Json],
    *,
    data: str | None = None,
    calibration: str | None = None,
    sampling: Mapping[str, Any] | None = None,
    threads: int | None = None,
    progress: Progress = untracked,
) -> Model:
    """Return the model compressed as a recipe says: the same bytes as then, given the same samples.

    Where layers made up for those before them, and where the model has no Gram statistics, that
    needs the samples again: data and calibration as in compress.

    Raises:
        DataError: it is no recipe, or of another model.
        UsageError: it needs samples, and there are none.
    """
    try:
        known = recipe["format"] == "qtool recipe" and recipe["version"] <= VERSION
        slope, sensitivity = float(recipe["slope"]), dict(recipe["sensitivity"])
        only, exclude = (tuple(recipe["options"].get(k, ())) for k in ("only", "exclude"))
        followed = int(recipe.get("followed", 0))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"this is no recipe of qtool compress: {error}") from error
    if not known or not 0 < slope < float("inf"):
        raise DataError("the recipe does not fit the model: its version or slope is wrong")
    if data is None and calibration is None and followed:
        raise UsageError(
            f"the recipe was made with {followed} samples that layers make up for each other on: "
            "give --data, and --calibration, as then"
        )
    options = Options(method="grid", bits=8, only=only, exclude=exclude)
    work = _Work(
        model, data or calibration, calibration, dict(sampling or {}), threads, progress
    )  # fmt: skip
    work.prepare(options, sensitivity, follow=followed > 0)
    result = work.clustering.final(slope)
    check_runs(result)
    bare = replace(result, statistics=None)
    return bare.then("compress", {**recipe["options"], "slope": slope})


def _given(options: Mapping[str, Any]) -> dict[str, Json]:
    return {key: list(value) for key, value in options.items() if value}


class _Work:
    """The model with its statistics, its layers, and what their errors cost."""

    def __init__(
        self, model: Model, data: str | None, calibration: str | None, sampling: dict[str, Any],
        threads: int | None, progress: Progress,
    ) -> None:  # fmt: skip
        self.model, self.threads, self.progress = model, threads or 1, progress
        grams = model.statistics is not None and bool(model.statistics.grams)
        self._learn, self._measure = calibration or data, data
        if not grams and calibration is None and data is not None:
            log.info("each %dth sample calibrates, the others measure", EVERY)
            self._learn, self._measure = f"{data}[::{EVERY}]", f"{data}[!::{EVERY}]"
        self.apart = self._learn != self._measure
        self._calibrated, self._sampling = grams, sampling
        self.options = Options(method="grid", bits=8)
        self.sensitivity: dict[str, float] = {}
        self.n_followed = 0
        self.clustering: Clustering

    def prepare(
        self, options: Options, known: dict[str, float] | None = None, *, follow: bool = True
    ) -> None:
        """Calibrate where that is needed; measure how much layers matter, where it is not known.

        Raises:
            DataError: what is known is of other layers.
            UnsupportedError: there is nothing to compress.
        """
        self.options = options
        held = []
        if self._learn is not None:
            learned = samples_for(
                self.model, data=self._learn, metric="agreement", **self._sampling
            )  # fmt: skip
            if not self._calibrated:
                self.model = calibrate(
                    self.model, data=learned, gram=True, threads=self.threads,
                    progress=self.progress,
                )  # fmt: skip
            held = some(learned)
        layers = clusterable(self.model, options)
        if any(layer.integer is not None for layer in layers):
            raise UnsupportedError("some weights are integers already: compress the float model")
        missing = [layer.name for layer in layers if known is not None and layer.name not in known]
        if missing:
            raise DataError(
                f"the recipe does not fit the model: layer {missing[0]!r} is not in it"
            )  # fmt: skip
        if known is not None and all(not layer.has_gram for layer in layers):
            log.warning("the model has no Gram statistics: the result is worse than the recipe's")
        self.sensitivity = known or sensitivities(self.model, layers, held, self.progress)
        self.n_followed = len(held) if follow else 0
        self.clustering = Clustering(
            self.model, layers, self.sensitivity, options, self.threads,
            held if follow else (), self.progress,
        )  # fmt: skip

    def samples(self) -> Any:
        """Return the samples that measure."""
        return samples_for(self.model, data=self._measure, **self._sampling)

    def facts(self) -> list[Any]:
        """Return what trials depend on, but for the slope."""
        return [
            VERSION, fingerprint(self.model), self._learn, self._measure, self._sampling,
            self.model.preprocess, changed(self.options), sorted(self.sensitivity.items()),
        ]  # fmt: skip


class _Search:
    """Trials at different sizes; the best model so far is on the disk."""

    def __init__(
        self, work: _Work, budget: Budget, output: Path, most: int, asked: Mapping[str, Json]
    ) -> None:
        self._work, self._budget, self._output, self._most = work, budget, output, most
        self._asked, self._max = asked, bool(asked.get("max"))
        self._samples = work.samples()
        self._journal = Journal(output.with_name(output.name + ".trials"), has_figures)
        self._full = float_bytes(work.model)
        self._trials: dict[float, Trial] = {}
        self._metric = ""
        self._best: tuple[int, float, Model] | None = None

    def run(self) -> None:
        """Spend the trials."""
        budget = self._budget
        if budget.max_drop is None:
            wanted = budget.target_size or self._full / (budget.target_ratio or 1)
            found = self._of_size(wanted)
            check_size(found.n_bytes, wanted)
            self._try(found)
            return
        low, high = 0.0, float("inf")  # sizes: the largest that fails, the smallest that passes
        wanted = self._full / FIRST_RATIO
        for _ in range(self._most):
            candidate = self._of_size(wanted)
            if candidate.n_bytes > wanted and not self._trials:  # none is so small: begin above
                candidate = self._of_size((candidate.n_bytes * self._full) ** 0.5)
            if candidate.level in self._trials:
                break  # there is none smaller
            if self._try(candidate).passed:
                high = min(high, candidate.n_bytes)
            else:
                low = max(low, candidate.n_bytes)
            if low == 0:
                wanted = high / STEP
            elif high == float("inf"):
                wanted = low * STEP
            else:
                wanted = (low * high) ** 0.5
            if high < low * NEAR or wanted > self._full:
                break

    def _of_size(self, wanted: float) -> Sized:
        """Return the largest file of at most `wanted` bytes; its statistics are done with."""

        def named(model: Model, slope: float) -> Model:
            bare = replace(model, statistics=None)
            return bare.then("compress", {**self._asked, "slope": slope})

        return self._work.clustering.sized(wanted, max=self._max, named=named)

    def _try(self, sized: Sized) -> Trial:
        """Evaluate a model, and keep it where it is the best so far."""
        slope, n_bytes, candidate = sized.level, sized.n_bytes, sized.model
        key = key_of(self._work.facts(), slope, self._max, self._budget.max_drop)
        entry = self._journal.found.get(key)
        if entry is None:
            entry = self._evaluated(candidate, slope, n_bytes)
            self._journal.add(key, entry)
        self._metric = str(entry.get("metric", ""))
        interval = entry.get("drop_ci95")
        trial = Trial(
            slope, n_bytes, self._full / n_bytes, entry.get("drop"),
            tuple(interval) if interval else None, entry.get("agreement"), bool(entry["passed"]),
        )  # fmt: skip
        self._trials[slope] = trial
        log.info("%s", describe(trial, self._metric))
        if self._best is None or self._better(trial):
            self._best = n_bytes, slope, candidate
            formats.pack(candidate, self._output, max=self._max, threads=self._work.threads)
        return trial

    def _better(self, trial: Trial) -> bool:
        assert self._best is not None
        known = self._trials[self._best[1]]
        if known.passed != trial.passed:
            return trial.passed
        if trial.passed:
            return trial.bytes < known.bytes
        return (trial.drop or 0.0) < (known.drop or 0.0)

    def _evaluated(self, candidate: Model, slope: float, n_bytes: int) -> dict[str, Any]:
        report = evaluate(
            candidate, data=self._samples, reference=self._work.model,
            threads=self._work.threads, progress=self._work.progress,
        )  # fmt: skip
        drop = report.drop
        if report.metric == "agreement" and drop is None:
            drop = 100 - report.value
        most = self._budget.max_drop
        if most is not None and drop is None:
            raise UsageError(f"--max-drop: metric {report.metric} has no drop; give --target-ratio")
        return {
            "slope": slope, "bytes": n_bytes, "metric": report.metric, "drop": drop,
            "drop_ci95": list(report.drop_ci95) if report.drop_ci95 else None,
            "agreement": report.agreement, "passed": most is None or (drop or 0.0) <= most,
        }  # fmt: skip

    def result(self) -> Compressed:
        """Return what is on the disk.

        Raises:
            CheckFailed: it is not inside the budget.
        """
        assert self._best is not None
        n_bytes, slope, model = self._best
        found = sorted(self._trials.values(), key=lambda trial: trial.bytes)
        marked = [replace(trial, chosen=trial.slope == slope) for trial in found]
        if not self._trials[slope].passed:
            raise CheckFailed(
                f"no model in {len(found)} trials drops by at most {self._budget.max_drop:g}; the "
                f"best, of {n_bytes} bytes, is in {self._output}; allow a larger drop"
            )
        recipe = {
            "format": "qtool recipe", "version": VERSION, "method": "grid", "slope": slope,
            "options": dict(self._asked), "bytes": n_bytes, "followed": self._work.n_followed,
            "sensitivity": self._work.sensitivity,
            "layers": [_layer(grid, layer) for grid, layer in self._work.clustering.pairs(slope)],
        }  # fmt: skip
        return Compressed(model, recipe, marked, self._metric)


def _layer(grid: Any, layer: Any) -> dict[str, Json]:
    """Return what was decided for a layer; replaying needs only the slope."""
    return {
        "name": layer.name,
        "step": float(grid.steps.min()),
        "bits": round(grid.bits / layer.size, 3),
        "sparsity": round(float((grid.integers == 0).mean()), 4),
    }


def describe(trial: Trial, metric: str) -> str:
    """Return a trial as a line."""
    drop = "" if trial.drop is None else f", {metric} drop {trial.drop:.2f}"
    agreement = "" if trial.agreement is None else f", agreement {trial.agreement:.2f} %"
    return f"{trial.bytes:,} bytes ({trial.ratio:.2f}x){drop}{agreement}"


def plot(found: Compressed, path: str | Path, max_drop: float | None = None) -> None:
    """Write the figure of size against drop, the chosen trial marked, as SVG."""
    points = [(t.bytes, t.drop, t.drop_ci95, t.chosen) for t in found.trials if t.drop is not None]
    if not points:
        raise UsageError(f"--plot: metric {found.metric!r} has no drop to draw")
    text = _plot.figure(points, y_label=f"drop of {found.metric}", limit=max_drop)
    with replacing(path) as file:
        file.write(text.encode())


def write(model: Model, path: str | Path, *, max: bool, threads: int | None) -> None:
    """Pack a compressed model; its statistics are done with."""
    formats.pack(replace(model, statistics=None), path, max=max, threads=threads)


def save_recipe(recipe: Mapping[str, Json], path: str | Path) -> None:
    """Write a recipe as JSON."""
    with replacing(path) as file:
        file.write((json.dumps(recipe, indent=1) + "\n").encode())


def load_recipe(path: str | Path) -> dict[str, Json]:
    """Return a recipe.

    Raises:
        DataError: the file cannot be read or is no JSON object.
    """
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read as a recipe: {error}") from error
    if not isinstance(found, dict):
        raise DataError(f"{path}: is no recipe: a JSON object is needed")
    return found
