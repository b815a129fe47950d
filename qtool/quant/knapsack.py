"""Which type each layer gets, so that little is lost for what is saved: a multiple-choice knapsack.

A layer has choices, each with a loss (predicted) and a cost (bytes, or the time of its MACs); an
assignment takes one choice of each layer. Losses of layers add up, and so do costs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

UNITS = 4096  # what a budget is divided into for best()
LEAST = 2.0**-6  # of the most cost: the smallest budget that sizes() tries

Assignment = dict[str, "Choice"]


@dataclass(frozen=True)
class Choice:
    """A type for one layer, such as "w4", its predicted loss and its cost."""

    type: str
    loss: float
    cost: float


def frontier(layers: Mapping[str, Sequence[Choice]]) -> list[Assignment]:
    """Return assignments from the least loss to the least cost, one layer's step apart.

    Each is the best one of its cost among all mixtures: the steps lie on the layers' lower convex
    hulls and are taken in the order of loss per cost saved (the relaxed knapsack's optimum).
    """
    steps: list[tuple[float, int, int, str, Choice]] = []
    start: Assignment = {}
    for place, (name, choices) in enumerate(layers.items()):
        hull = _hull(choices)
        start[name] = hull[0]
        for number, (a, b) in enumerate(zip(hull, hull[1:], strict=False)):
            steps.append(((b.loss - a.loss) / (a.cost - b.cost), place, number, name, b))
    path = [start]
    for _, _, _, name, choice in sorted(steps, key=lambda step: step[:3]):
        path.append({**path[-1], name: choice})
    return path


def best(layers: Mapping[str, Sequence[Choice]], budget: float) -> Assignment | None:
    """Return the assignment of the least loss within the budget; None if there is none.

    Dynamic programming over costs in units of budget / UNITS, rounded up: the cost is never above
    the budget, and the loss the least but for what a unit per layer can buy.
    """
    unit = budget / UNITS
    if unit <= 0:
        return None
    least, taken = _table(layers, unit)
    return _read(layers, taken, UNITS, unit) if np.isfinite(least[UNITS]) else None


def sizes(layers: Mapping[str, Sequence[Choice]], step: float) -> list[Assignment]:
    """Return assignments from the most cost to the least, each the best within a budget.

    The budgets are `step` (below 1) times each other: those of frontier() lie as far apart as the
    layers are large. Below a LEAST of the most there are none but the last.
    """
    path = frontier(layers)
    most, found = cost(path[0]), [path[0]]
    budget, least = most * step, max(cost(path[-1]), most * LEAST)
    while budget > least:
        made = best(layers, budget)
        if made is not None and loss(made) > loss(found[-1]):
            found.append(made)
        budget *= step
    return [*(a for a in found if loss(a) < loss(path[-1])), path[-1]]


def _table(
    layers: Mapping[str, Sequence[Choice]], unit: float
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return the least loss within each number of units, and for each layer the choice taken."""
    least = np.zeros(UNITS + 1)
    taken: list[np.ndarray] = []
    for choices in layers.values():
        options = []
        for choice in choices:
            n = _units(choice, unit)
            moved = np.full(UNITS + 1, np.inf)
            if n <= UNITS:
                moved[n:] = least[: UNITS + 1 - n] + choice.loss
            options.append(moved)
        stacked = np.stack(options)
        taken.append(np.argmin(stacked, axis=0))
        least = np.min(stacked, axis=0)
    return least, taken


def _read(
    layers: Mapping[str, Sequence[Choice]], taken: Sequence[np.ndarray], left: int, unit: float
) -> Assignment:
    """Return the assignment that the table holds for so many units."""
    found = {}
    for (name, choices), which in reversed(list(zip(layers.items(), taken, strict=True))):
        found[name] = choices[which[left]]
        left -= _units(found[name], unit)
    return {name: found[name] for name in layers}


def _units(choice: Choice, unit: float) -> int:
    return int(np.ceil(choice.cost / unit - 1e-9))


def loss(assignment: Assignment) -> float:
    """Return the sum of the losses."""
    return sum(choice.loss for choice in assignment.values())


def cost(assignment: Assignment) -> float:
    """Return the sum of the costs."""
    return sum(choice.cost for choice in assignment.values())


def _hull(choices: Sequence[Choice]) -> list[Choice]:
    """Return the lower convex hull from the least loss to the least cost."""
    ordered = sorted(choices, key=lambda c: (c.loss, c.cost))
    kept: list[Choice] = []
    for choice in ordered:
        if kept and choice.cost >= kept[-1].cost:
            continue
        while len(kept) > 1 and _slope(kept[-2], kept[-1]) >= _slope(kept[-1], choice):
            kept.pop()
        kept.append(choice)
    return kept


def _slope(a: Choice, b: Choice) -> float:
    return (b.loss - a.loss) / (a.cost - b.cost)
