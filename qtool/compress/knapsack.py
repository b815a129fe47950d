"""Which entry of each layer's database to take: the least cost for a total size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """One way to store a layer: what it is called, its size, and what it costs at the outputs."""

    value: float  # a sparsity, or a number of bits
    size: float
    cost: float


def choose(database: Sequence[Sequence[Entry]], total: float) -> list[Entry]:
    """Return an entry of each layer, of least summed cost, with sizes of at most `total`.

    Takes the steps of the lower convex hulls by what they save for their cost (the Lagrangian
    solution): optimal but for the last step. Where nothing fits, the smallest entries.
    """
    hulls = [hull(entries) for entries in database]
    places = [0] * len(hulls)
    size = sum(steps[0].size for steps in hulls)
    order = sorted(
        (rate(a, b), layer, i)
        for layer, steps in enumerate(hulls)
        for i, (a, b) in enumerate(zip(steps, steps[1:], strict=False))
    )
    for _, layer, i in order:
        if size <= total:
            break
        if places[layer] == i:
            size += hulls[layer][i + 1].size - hulls[layer][i].size
            places[layer] = i + 1
    return [steps[place] for steps, place in zip(hulls, places, strict=True)]


def hull(entries: Sequence[Entry]) -> list[Entry]:
    """Return the entries that some price of size makes best, from the largest to the smallest."""
    kept: list[Entry] = []
    for entry in sorted(entries, key=lambda e: (-e.size, e.cost)):
        if kept and entry.size >= kept[-1].size:
            continue
        while kept and entry.cost <= kept[-1].cost:
            kept.pop()
        while len(kept) > 1 and rate(kept[-2], kept[-1]) >= rate(kept[-1], entry):
            kept.pop()
        kept.append(entry)
    return kept


def rate(larger: Entry, smaller: Entry) -> float:
    """Return the cost of each unit of size that the step saves."""
    return (smaller.cost - larger.cost) / max(larger.size - smaller.size, 1e-300)
