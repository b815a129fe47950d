"""The trade-off curve: trials of `qtool tune` or `qtool compress`, size against drop."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from qtool.errors import DataError
from qtool.page import words
from qtool.page.svg import COLORS, figure, svg

MAX_BYTES = 1 << 26
MOST_POINTS = 2000
MOST = 1e18  # as a size or a drop
WIDTH, HEIGHT = 1040, 320
SAME_SIZE = 0.01  # what a history more or less may change


@dataclass(frozen=True)
class Point:
    """One trial: how large, how much worse with its 95 % interval, and whether it was taken."""

    n_bytes: float
    drop: float
    interval: tuple[float, float] | None
    chosen: bool


@dataclass(frozen=True)
class Curve:
    """The trials, the drop that was allowed where that is known, and what was measured."""

    points: tuple[Point, ...]
    budget: float | None = None
    measure: str = ""

    def choose(self, n_bytes: int | None) -> Curve:
        """Return the curve with the trial nearest to this size as taken, if none is marked yet."""
        if n_bytes is None or any(point.chosen for point in self.points):
            return self
        sizes = [point.n_bytes for point in self.points]
        nearest = min(sizes, key=lambda size: abs(size - n_bytes))
        if abs(nearest - n_bytes) > SAME_SIZE * n_bytes:
            return self
        chosen = sizes.index(nearest)
        marked = (replace(p, chosen=place == chosen) for place, p in enumerate(self.points))
        return replace(self, points=tuple(marked))

    def front(self) -> list[Point]:
        """Return the trials that no other is both smaller and better than, by size."""
        best: list[Point] = []
        for point in sorted(self.points, key=lambda p: (p.n_bytes, p.drop)):
            if not best or point.drop < best[-1].drop:
                best.append(point)
        return best

    def text(self) -> str:
        """Return what the figure shows."""
        text = f"Size against drop of {len(self.points)} trials; the line joins those that none is "
        text += "both smaller and better than, bars are 95 % intervals."
        if any(point.chosen for point in self.points):
            text += " The large point is this model."
        if self.budget is not None:
            text += f" The dashed line is the budget, {words.short(self.budget)}."
        return text

    def svg(self) -> str:
        """Return the figure."""
        made = figure(WIDTH, HEIGHT)
        axes = made.add_axes((0.06, 0.13, 0.92, 0.83))
        for point in self.points:
            if point.interval is not None:
                places = [point.n_bytes] * 2
                axes.plot(places, point.interval, color=COLORS["float"], linewidth=1, alpha=0.7)
        _points(axes, self.front(), line=True)
        _points(axes, self.points, s=34, zorder=3, color=COLORS["float"])
        _points(
            axes, [p for p in self.points if p.chosen], s=120, zorder=4, color=COLORS["int"],
            linewidths=1.5,
        )  # fmt: skip
        if self.budget is not None:
            axes.axhline(self.budget, color=COLORS["bad"], linewidth=1, linestyle=(0, (4, 3)))
        axes.set_ylabel(f"drop{self.measure}; down is better")
        axes.xaxis.set_major_formatter(lambda value, _: words.size(value))
        axes.grid(axis="both")
        axes.set_axisbelow(True)
        axes.spines["left"].set_visible(False)
        axes.margins(0.06, 0.1)
        return svg(made, "tradeoff", "Size against drop of every trial")


def _points(axes: Any, points: Sequence[Point], *, line: bool = False, **look: Any) -> None:
    sizes, drops = [p.n_bytes for p in points], [p.drop for p in points]
    if line:
        axes.plot(sizes, drops, color=COLORS["int"], linewidth=1.5)
    else:
        axes.scatter(sizes, drops, edgecolors=COLORS["card"], **look)


def read_curve(path: str) -> Curve:
    """Return the curve of a journal: one JSON object, or one a line as tune writes them.

    Raises:
        DataError: the file cannot be read, or holds no trials with bytes and drop.
    """
    try:
        with Path(path).open("rb") as file:
            text = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    if len(text) > MAX_BYTES:
        raise DataError(f"{path}: is too large for a journal of trials")
    trials, budget = _trials(text)
    points = tuple(_found(trials))[:MOST_POINTS]
    if not points:
        raise DataError(
            f"{path}: has no trials with a size and a drop; give a journal of tune or compress"
        )
    return Curve(points, budget, _measure(trials))


def _trials(text: bytes) -> tuple[list[Any], float | None]:
    """Return the trials of a journal, and the budget where it has one."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return list(_lines(text)), None
    if isinstance(found, dict) and isinstance(found.get("trials"), list):
        return found["trials"], _number(found.get("max_drop"))
    return found if isinstance(found, list) else [found], None


def _lines(text: bytes) -> Iterator[Any]:
    """Yield the JSON value of each line; a torn line is left out."""
    for line in text.splitlines():
        with suppress(ValueError, RecursionError):
            yield json.loads(line)


def _found(trials: Sequence[Any]) -> Iterator[Point]:
    for trial in trials:
        if not isinstance(trial, Mapping):
            continue
        n_bytes, drop = _number(trial.get("bytes")), _number(trial.get("drop"))
        if n_bytes is not None and drop is not None:
            ends = trial.get("drop_ci95")
            known = [_number(end) for end in ends] if isinstance(ends, list) else []
            interval = (known[0], known[1]) if len(known) == 2 and None not in known else None
            yield Point(n_bytes, drop, interval, trial.get("chosen") is True)  # type: ignore[arg-type]


def _measure(trials: Sequence[Any]) -> str:
    """Return " of top1, points" where all trials have that one metric."""
    kinds = {
        (str(trial.get("metric")), str(trial.get("unit", "")))
        for trial in trials
        if isinstance(trial, Mapping)
    }
    if len(kinds) != 1 or "None" in next(iter(kinds)):
        return ""
    metric, unit = kinds.pop()
    unit = "points" if unit == "%" else unit
    return words.plain(f" of {metric}{f', {unit}' if unit else ''}", 60)


def _number(value: Any) -> float | None:
    """Return a finite JSON number as a float; None for anything else."""
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not abs(value) < MOST:
        return None
    return float(value)
