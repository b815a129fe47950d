"""What tune needs of the command line, and what it says in the end."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any

from qtool.cli import options
from qtool.errors import CheckFailed, UsageError

if TYPE_CHECKING:
    from qtool.stages._search import Trial
    from qtool.stages.tune import Tuning

log = logging.getLogger("qtool")
QUANTIZE_KEYS = ("range", "per_channel", "exclude")
HEAD = ("place ", "bytes ", "metric ", "drop ", "95 % interval ", "agreement ", "", "layers")


def check(input_: str, output: str, given: dict[str, Any]) -> None:
    """Fail on what can be seen before anything is read."""
    from qtool.stages.evaluate import check_request
    from qtool.stages.quantize_options import Options

    if output == "-":
        raise UsageError("tune keeps a journal beside its output: name a file, not -")
    if os.path.realpath(input_) == os.path.realpath(output):
        raise UsageError(f"{output} is the model to compare with: write to another file")
    options.require_data(given)
    if given["random"]:
        raise UsageError("tune measures on real samples: give --data without --random")
    check_request(
        given["metric"],
        given["target"],
        reference=True,
        max_drop=given["max_drop"],
        confident=given["confident"],
        preprocess=given["preprocess"],
    )
    Options(**{key: given[key] for key in QUANTIZE_KEYS})


def run(path: str, output: str, executor: str | None, **given: Any) -> Tuning:
    """Return what tune finds."""
    from qtool import formats
    from qtool.cli.console import track
    from qtool.data.plugin import load_function
    from qtool.stages.tune import tune

    pool = None if executor is None else load_function(executor)()
    sampling = {key: given.pop(key) for key in options.DATA_KEYS}
    opened = options.unusual(sampling)
    data = opened.pop("data")
    chosen = {key: given.pop(key) for key in QUANTIZE_KEYS}
    usual = {"range": "mse", "per_channel": True, "exclude": ()}
    kept = {key: value for key, value in chosen.items() if value != usual[key]}
    return tune(
        formats.load(path), data=data, output=output, executor=pool, name=path, sampling=opened,
        options=kept, progress=track, **given,
    )  # fmt: skip


def show(found: Tuning, output: str) -> None:
    """Print the trials, the curve and the commands to standard error."""
    from qtool.cli.console import show as table

    best = found.best
    rows = [_row(trial, found) for trial in sorted(found.trials, key=lambda t: t.place)]
    table(f"trials of {found.n_candidates} candidates", HEAD, rows)
    n = len(found.trials)
    log.info("ended: %s; %d evaluation%s in %.0f s", found.ended, n, "s"[: n > 1], found.seconds)
    log.info("peak memory %.0fM", found.peak_bytes / 1e6)
    if best is not None:
        log.info("%s: %s bytes, drop %.2f", output, f"{best.bytes:,}", best.drop)
        log.info("the same by hand:")
        for command in found.commands:
            log.info("  %s", command)


def require(found: Tuning) -> None:
    """Fail with exit code 3 where nothing is inside the budget."""
    if found.best is None:
        least = min(found.trials, key=lambda trial: trial.drop)
        raise CheckFailed(
            f"no trial is inside the budget of {found.max_drop:g}; the closest drops by "
            f"{least.drop:.2f} and is written; allow more --trials or a larger --max-drop"
        )


def _row(trial: Trial, found: Tuning) -> tuple[str, ...]:
    low, high = trial.drop_ci95 or (trial.drop, trial.drop)
    marks = ["best"] if trial == found.best else ["curve"] if trial in found.curve else []
    marks += [] if trial.passed else ["over"]
    types: dict[str, int] = {}
    for text in trial.layers:
        kind = text.rpartition("=")[2]
        types[kind] = types.get(kind, 0) + 1
    summary = ", ".join(f"{n} {kind}" for kind, n in types.items()) or "all w8"
    agreement = "-" if trial.agreement is None else f"{trial.agreement:.2f}"
    return (
        str(trial.place), f"{trial.bytes:,}", f"{trial.value:.2f}", f"{trial.drop:.2f}",
        f"{low:.2f}..{high:.2f}", agreement, ", ".join(marks), summary,
    )  # fmt: skip
