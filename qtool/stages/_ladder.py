"""The candidates of tune, from the one that loses least to the one that costs least."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from qtool.quant.knapsack import Assignment, Choice, cost, loss, sizes
from qtool.quant.layer_types import FLOAT
from qtool.stages.mixed import layer_options

BASE = "w8"
NEAR = 0.01  # two candidates whose costs differ by less are not worth an evaluation
STEP = 0.985  # of the cost, from one candidate to the next
GOALS = {"size": ("bytes", (FLOAT, BASE, "w4")), "latency": ("macs", (FLOAT, BASE))}


@dataclass(frozen=True)
class Candidate:
    """Types for the layers, with their predicted loss and their cost."""

    layers: tuple[str, ...]  # of --layer; what is not named has the base type
    loss: float
    cost: float


def ladder(known: Mapping[str, Sequence[Choice]]) -> tuple[list[Candidate], int]:
    """Return the candidates, and the place of the one in which all layers have the base type.

    Behind it come mixtures of the base type and narrower ones. In front of it, those that are
    predicted to lose less: mixtures of all types, float for the layers that need it. From each to
    the next the predicted loss grows.
    """
    base = {n: next(c for c in cs if c.type == BASE) for n, cs in known.items()}
    integers = {n: [c for c in cs if c.type != FLOAT] for n, cs in known.items()}
    above = [a for a in sizes(known, STEP) if loss(a) < loss(base)]
    below = [a for a in sizes(integers, STEP) if loss(a) > loss(base) and cost(a) < cost(base)]
    return [_candidate(a) for a in (*above, base, *below)], len(above)


def read_choices(path: Path) -> dict[str, list[Choice]] | None:
    """Return the choices of each layer that a JSON file holds; None if it is missing or damaged."""
    with suppress(OSError, ValueError, TypeError, AttributeError):
        known = json.loads(path.read_text(encoding="utf-8"))
        return {
            name: [Choice(str(kind), float(loss), float(cost)) for kind, loss, cost in of_layer]
            for name, of_layer in known.items()
        }
    return None


def _candidate(assignment: Mapping[str, Choice]) -> Candidate:
    kept: Assignment = dict(assignment)
    return Candidate(layer_options(kept, BASE), loss(kept), cost(kept))


@dataclass(frozen=True)
class Bracket:
    """What a search knows: the last place inside the budget, the first beyond it, and their drops.

    nan for a drop that is not known.
    """

    low: int
    high: int
    low_drop: float = 0.0  # that of the float model
    high_drop: float = math.nan


def between(
    candidates: Sequence[Candidate], known: Bracket, budget: float, n: int = 1
) -> list[int]:
    """Return up to n places between the ends, where the drop is expected to cross the budget.

    For small noise the drop grows as the loss does: one place is where the line through the ends
    crosses, kept in the middle half of the bracket. Without a drop on both sides, and for more
    places, they are even. None where what lies between costs nearly the same as the lower end.
    """
    least = candidates[known.low].cost * (1 - NEAR)
    last = min(known.high, len(candidates))
    inside = [i for i in range(known.low + 1, last) if candidates[i].cost < least]
    if not inside:
        return []
    even = [inside[(len(inside) - 1) * part // (n + 1)] for part in range(1, n + 1)]
    crossing = _crossing(candidates, known, budget)
    if n > 1 or crossing is None:
        return sorted(set(even)) if n > 1 else [inside[len(inside) // 2]]
    margin = len(inside) // 4
    middle = inside[margin : len(inside) - margin]
    return [min(middle, key=lambda i: (abs(candidates[i].loss - crossing), i))]


def _crossing(candidates: Sequence[Candidate], known: Bracket, budget: float) -> float | None:
    """Return the loss at which the line through the ends of the bracket meets the budget."""
    rise = known.high_drop - known.low_drop
    if not math.isfinite(rise) or rise <= 0:
        return None
    low, high = candidates[known.low].loss, candidates[known.high].loss
    return low + (high - low) * (budget - known.low_drop) / rise
