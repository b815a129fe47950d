"""The trade-off curve: trials of `qtool compress` or `qtool tune`, size against accuracy."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qtool.errors import DataError
from qtool.page import words
from qtool.page.svg import COLORS, figure, svg

MAX_BYTES = 1 << 26
MOST_POINTS = 2000
MOST = 1e18  # as a size or a drop
WIDTH, HEIGHT = 1040, 320


@dataclass(frozen=True)
class Point:
    """One trial: how large, how much worse, and whether it is the one that was taken."""

    n_bytes: float
    drop: float
    chosen: bool


@dataclass(frozen=True)
class Curve:
    """The trials, and the drop that was allowed where that is known."""

    points: tuple[Point, ...]
    budget: float | None

    def front(self) -> list[Point]:
        """Return the trials that no other is both smaller and better than, by size."""
        best: list[Point] = []
        for point in sorted(self.points, key=lambda p: (p.n_bytes, p.drop)):
            if not best or point.drop < best[-1].drop:
                best.append(point)
        return best

    def text(self) -> str:
        """Return what the figure shows."""
        text = f"{len(self.points)} trials: size against drop; the line joins the best."
        if self.budget is not None:
            text += f" The budget was {words.short(self.budget)}."
        return text

    def svg(self) -> str:
        """Return the figure."""
        made = figure(WIDTH, HEIGHT)
        axes = made.add_axes((0.06, 0.13, 0.92, 0.83))
        front = self.front()
        axes.plot(
            [p.n_bytes for p in front], [p.drop for p in front], color=COLORS["int"], linewidth=1.5
        )
        axes.scatter(
            [p.n_bytes for p in self.points], [p.drop for p in self.points], s=30, zorder=3,
            color=COLORS["float"], edgecolors=COLORS["card"],
        )  # fmt: skip
        chosen = [p for p in self.points if p.chosen]
        axes.scatter(
            [p.n_bytes for p in chosen], [p.drop for p in chosen], s=110, zorder=4,
            color=COLORS["int"], edgecolors=COLORS["card"], linewidths=1.5,
        )  # fmt: skip
        if self.budget is not None:
            axes.axhline(self.budget, color=COLORS["bad"], linewidth=1, linestyle=(0, (4, 3)))
        axes.set_xlabel("size")
        axes.set_ylabel("drop (down is better)")
        axes.xaxis.set_major_formatter(lambda value, _: words.size(value))
        axes.grid(axis="both")
        axes.set_axisbelow(True)
        axes.margins(0.06, 0.1)
        return svg(made, "curve", "Size against drop of every trial")


def read_curve(path: str) -> Curve:
    """Return the curve of a journal.

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
    return Curve(*_parsed(text, path))


def _parsed(text: bytes, path: str) -> tuple[tuple[Point, ...], float | None]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        raise DataError(f"{path}: is no JSON; give a journal of compress or tune") from None
    trials = found.get("trials") if isinstance(found, dict) else found
    points = tuple(_points(trials if isinstance(trials, list) else []))[:MOST_POINTS]
    if not points:
        raise DataError(f"{path}: has no trials with a size and a drop")
    budget = found.get("max_drop") if isinstance(found, dict) else None
    return points, _number(budget)


def _points(trials: Sequence[Any]) -> list[Point]:
    found = []
    for trial in trials:
        if not isinstance(trial, Mapping):
            continue
        n_bytes, drop = _number(trial.get("bytes")), _number(trial.get("drop"))
        if n_bytes is not None and drop is not None:
            found.append(Point(n_bytes, drop, bool(trial.get("chosen"))))
    return found


def _number(value: Any) -> float | None:
    """Return a finite JSON number as a float; None for anything else."""
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not abs(value) < MOST:
        return None
    return float(value)
