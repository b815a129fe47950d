"""The candidates of tune, from the one that loses least to the one that costs least."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qtool.model import Model
from qtool.quant.knapsack import Assignment, cost, frontier, loss
from qtool.quant.layer_types import FLOAT
from qtool.stages.mixed import choices, layer_options

BASE = "w8"
NEAR = 0.01  # two candidates whose costs differ by less are not worth an evaluation
GOALS = {"size": ("bytes", (FLOAT, BASE, "w4")), "latency": ("macs", (FLOAT, BASE))}


@dataclass(frozen=True)
class Candidate:
    """Types for the layers, with their predicted loss and their cost."""

    layers: tuple[str, ...]  # of --layer; what is not named has the base type
    loss: float
    cost: float


def ladder(
    model: Model, *, goal: str, importance: Mapping[str, float], **options: Any
) -> tuple[list[Candidate], int]:
    """Return the candidates, and the place of the one in which all layers have the base type.

    In front of it float layers take the base type one by one, behind it those of the base type
    narrower ones, each time the one that loses least for what it saves.
    """
    price, types = GOALS[goal]
    known = choices(model, types=types, cost=price, importance=importance, **options)
    narrow = [t for t in types if t != FLOAT]
    above = frontier({n: [c for c in cs if c.type in (FLOAT, BASE)] for n, cs in known.items()})
    below = frontier({n: [c for c in cs if c.type in narrow] for n, cs in known.items()})
    path = [*above, *(below[1:] if len(narrow) > 1 else [])]
    return [_candidate(assignment) for assignment in path], len(above) - 1


def _candidate(assignment: Assignment) -> Candidate:
    return Candidate(layer_options(assignment, BASE), loss(assignment), cost(assignment))


def between(candidates: Sequence[Candidate], low: int, high: int, n: int) -> list[int]:
    """Return up to n places between low and high, evenly spaced in the logarithm of the loss.

    None where what lies between costs nearly the same as low.
    """
    inside = [
        i
        for i in range(low + 1, min(high, len(candidates)))
        if candidates[low].cost - candidates[i].cost > NEAR * candidates[low].cost
    ]
    if not inside:
        return []
    bottom = candidates[low].loss or candidates[inside[0]].loss / 4
    top = candidates[min(high, len(candidates) - 1)].loss
    found = []
    for part in range(1, n + 1):
        share = part / (n + 1)
        wanted = _log(bottom) * (1 - share) + _log(top) * share
        found.append(min(inside, key=lambda i: abs(_log(candidates[i].loss) - wanted)))
    return sorted(set(found))


def _log(value: float) -> float:
    return math.log(max(value, 1e-300))
