"""High-bias absorption: offsets of channels that let the ranges of tensors end lower.

A range [0, R] has to reach to the largest value of all channels. Channel i goes through as
x_i - c_i where it never falls below c_i, so R can be max(u_i - c_i), u_i being its largest value.
Only what lowers R is absorbed, for what of other samples is below c_i is lost.
See docs/accuracy.md. Shape legend: variables are numbered v, those of offset_ties().
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from qtool.model import Model
from qtool.quant.absorbers import Absorber
from qtool.quant.equalize import ChannelStatistics, Float64, Problem
from qtool.quant.equalizers.noise import layer_errors, predicted
from qtool.quant.offsets import offset_ties
from qtool.quant.ties import Ids, Ties

LEAST_GAIN = 0.1  # dB, of the predicted error of the layers that read what shares offsets
GRID = 10  # offsets are multiples of 2 ** -10 of a group's largest, so are the same anywhere


@dataclass(frozen=True)
class Absorbed:
    """Offsets by variable, the predicted error with them, and the number of lower ranges."""

    offsets: Float64
    error: float
    n_ranges: int


@dataclass(frozen=True)
class Absorption:
    """What can be absorbed of a problem's channels."""

    problem: Problem
    tied: Ties
    reach: Float64  # (v,), the most that goes
    ids: list[Ids]  # the variables of each of the problem's ranges

    @property
    def utmost(self) -> Problem:
        """The problem with all absorbed that can be: what an equalizer is to look at."""
        return self._lowered(self.reach)

    def __call__(self, factors: Float64) -> Absorbed:
        """Return the offsets with which the predicted error falls, in groups that share some.

        factors: those of the problem's variables, which channels are scaled with as well.
        """
        offsets, groups = np.zeros(len(self.reach)), self._groups()
        for group in groups:
            offsets = np.maximum(offsets, self._offsets(group, factors))
        before = np.array(layer_errors(self.problem, factors))
        after = np.array(layer_errors(self._lowered(offsets), factors))
        kept = [g for g in groups if self._gain(g, before, after) >= LEAST_GAIN]
        stay = np.zeros(len(offsets), bool)
        for i in [i for g in kept for i in g]:
            stay[self.ids[i]] = True
        offsets[~stay] = 0.0
        return Absorbed(offsets, predicted(self._lowered(offsets), factors), sum(map(len, kept)))

    def _lowered(self, offsets: Float64) -> Problem:
        pairs = zip(self.problem.ranges, self.ids, strict=True)
        lowered = [replace(one, size=one.size - offsets[ids]) for one, ids in pairs]
        return replace(self.problem, ranges=lowered)

    def _gain(self, group: list[int], before: Float64, after: Float64) -> float:
        """Return by how many dB the error of the layers that read a group falls."""
        readers = np.isin(self.problem.source, group)
        return decibels(before[readers].sum(), after[readers].sum())

    def _groups(self) -> list[list[int]]:
        """Return the ranges with something to absorb, those that share a variable together."""
        found: list[tuple[set[int], list[int]]] = []
        for i, ids in enumerate(self.ids):
            mine, members = set(ids[self.reach[ids] > 0].tolist()), [i]
            if not mine:
                continue
            for other in [pair for pair in found if pair[0] & mine]:
                found.remove(other)
                mine, members = mine | other[0], [*other[1], *members]
            found.append((mine, members))
        return [sorted(members) for _, members in found]

    def _offsets(self, group: list[int], factors: Float64) -> Float64:
        """Return the least offsets with which each range ends where it can.

        What passes a Clip is not shifted so far that its limit, which moves along, would be below
        the end of the range.
        """
        most = self.reach[np.concatenate([self.ids[i] for i in group])].max()
        unit = float(np.exp2(np.floor(np.log2(most)) - GRID))
        reach = np.floor(self.reach / unit) * unit
        need, room = np.zeros(len(reach)), reach.copy()
        for i in group:
            ids, one = self.ids[i], self.problem.ranges[i]
            s = factors[one.ids]
            end = float((s * (one.size - reach[ids])).max(initial=0.0)) / s
            np.maximum.at(need, ids, np.ceil((one.size - end) / unit) * unit)
            np.minimum.at(room, ids, np.maximum(self.tied.clipped[ids] - end, 0.0))
        return np.minimum(need, np.floor(room / unit) * unit)


def absorption(
    model: Model,
    problem: Problem,
    known: Mapping[str, ChannelStatistics],
    absorber: Absorber,
) -> Absorption:
    """Return what can be absorbed in the model of a problem, whose tensors have shapes."""
    tied = offset_ties(model)
    ids = [np.concatenate([tied.ids[v] for v in one.values]) for one in problem.ranges]
    return Absorption(problem, tied, _reach(model, tied, known, absorber), ids)


def decibels(before: float, after: float) -> float:
    """Return by how many dB an error falls."""
    return 10 * float(np.log10(before / after)) if before > 0 and after > 0 else 0.0


def _reach(
    model: Model, tied: Ties, known: Mapping[str, ChannelStatistics], absorber: Absorber
) -> Float64:
    """Return the most that each variable can absorb: nothing where no layer makes it."""
    low = np.full(len(tied.free), np.inf)
    for node in tied.layers:
        y = node.outputs[0]
        name, ids = y.name or "", tied.ids[y]
        found = absorber(known[name], model.batch_norm.get(name)) if name in known else None
        np.minimum.at(low, ids, 0.0 if found is None else found)
    low[~tied.free | ~np.isfinite(low)] = 0.0
    return np.asarray(np.maximum(low, 0.0))
