"""Twins: channels that never change become copies of those whose rounding hurts most.

Training leaves channels that give the same number whatever the input (a BatchNormalization with a
scale near 0). Its place costs nothing: n copies of one channel, shifted against each other by 1/n
of a step and averaged by the layer that reads them, quantize as with a step of 1/n. The model
stays the same function, but for what clamps make of a shift. See docs/accuracy.md.

Shape legend: C channels of a chain; a weight is (G, A, B, k) as in qtool/quant/equalize.py.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from qtool.model import BatchNormStatistics, Model
from qtool.quant import smoothing
from qtool.quant.chains import Chain, chains
from qtool.quant.equalize import ChannelStatistics, problem
from qtool.quant.equalizers.noise import importance
from qtool.quant.rescale import aligned as aligned_factors
from qtool.shapes import infer_shapes

Float64 = npt.NDArray[np.float64]
Known = dict[str, ChannelStatistics]

KEY = "qtool.twins"  # in a model's metadata: the twins of each chain, as JSON
MARGIN = 2.0  # inputs are taken to reach this much further than on samples
STILL = 1 / 16  # of a step: a channel that changes by no more never changes
LEAST = 5e-4  # of the rounding noise of all chains, that a copy has to take away


@dataclass(frozen=True)
class Twins:
    """Which channel each channel of a chain becomes, (C,), and by how much the copies are shifted.

    constants (C,): what a channel that gives way has always been to the readers, 0 for the others.
    steps (T,): of what each of the T layers in front of the readers makes.
    """

    sources: npt.NDArray[np.intp]
    constants: Float64
    steps: Float64

    @property
    def taken(self) -> npt.NDArray[np.intp]:
        """The channels that gave way."""
        return np.flatnonzero(self.sources != np.arange(len(self.sources)))

    @property
    def shifts(self) -> Float64:
        """Shifts (T, C) that add up to 0 over the copies, in another order for each layer."""
        shifts = np.zeros((len(self.steps), len(self.sources)))
        for source in np.unique(self.sources[self.taken]):
            copies = np.flatnonzero(self.sources == source)
            n, order = len(copies), np.arange(len(copies))
            by = next(m for m in range(round(n * 0.618), n + 1) if math.gcd(m, n) == 1)
            for t, step in enumerate(self.steps):
                shifts[t, copies] = ((order * by**t) % n - (n - 1) / 2) / n * step
        return shifts


@dataclass(frozen=True)
class _Room:
    """A chain, what each of its channels costs, and those that never change."""

    chain: Chain
    costs: Float64
    spare: npt.NDArray[np.bool_]
    constants: Float64
    steps: Float64

    def twins(self, least: float) -> Twins | None:
        """Return who takes the places of the spare channels; None where nobody would."""
        sources = _shared_out(self.costs, np.flatnonzero(self.spare), least)
        taken = sources != np.arange(len(sources))
        if not taken.any():
            return None
        return Twins(sources, np.where(taken, self.constants, 0.0), self.steps)


def find_twins(model: Model, known: Known, *, levels: int) -> dict[str, Twins]:
    """Return the twins of each chain that has some, by the name of its first layer's output.

    The model has shapes, known the channels of its tensors, levels the steps of a range.
    """
    made = problem(model, known, per_channel=True)
    if made is None:
        return {}
    importances = {
        layer.node.outputs[0].name or "": found
        for layer, found in zip(made.layers, importance(made), strict=True)
    }
    rooms = [
        _room(chain, known, importances, levels)
        for chain in chains(model)
        if all(name in known for name in chain.names)
    ]
    least = LEAST * float(sum(room.costs.sum() for room in rooms))
    found = {room.chain.name: room.twins(least) for room in rooms}
    return {name: twins for name, twins in found.items() if twins is not None}


def _room(chain: Chain, known: Known, importances: Mapping[str, Float64], levels: int) -> _Room:
    steps = np.array([_step(known[name], levels) for name in chain.made_names])
    source = known[chain.source]
    low, high = chain.bounds(
        MARGIN * np.minimum(source.minimum, 0.0), MARGIN * np.maximum(source.maximum, 0.0)
    )
    spare = high - low <= STILL * steps[-1]
    constants = np.where(spare, (low + high) / 2, 0.0)
    if not chain.takes_constants:
        spare &= np.maximum(np.abs(low), np.abs(high)) <= STILL * steps[-1]
        constants[:] = 0.0
    costs = np.where(spare, 0.0, chain.costs(importances, list(steps)))
    return _Room(chain, costs, spare, constants, steps)


def _step(known: ChannelStatistics, levels: int) -> float:
    low, high = min(float(known.minimum.min()), 0.0), max(float(known.maximum.max()), 0.0)
    return (high - low) / levels


def _shared_out(costs: Float64, spare: npt.NDArray[np.intp], least: float) -> npt.NDArray[np.intp]:
    """Return the source of each channel: each spare one goes where it lowers the error most.

    Those that would lower it by less than `least` stay, which costs fewer bytes once packed.
    """
    sources, copies = np.arange(len(costs)), np.ones(len(costs))
    for channel in spare:
        gains = costs * (copies**-2.0 - (copies + 1) ** -2.0)
        best = int(np.argmax(gains))
        if gains[best] <= least:
            break
        sources[channel] = best
        copies[best] += 1
    return sources


def with_twins(model: Model, twins: Mapping[str, Twins]) -> Model:
    """Return the model, whose tensors have shapes, with the twins; it computes the same.

    It has no statistics: those of the model are of other channels.
    """
    result = model.copy()
    known = dict(model.batch_norm)
    for chain in chains(result):
        found = twins.get(chain.name)
        if found is not None:
            chain.fill(found.sources, found.constants, found.shifts)
            known |= _copied(chain, found, known)
    result.ir.metadata_props[KEY] = _record(twins)
    return replace(result, batch_norm=known, statistics=None)


def _copied(
    chain: Chain, twins: Twins, known: Mapping[str, BatchNormStatistics]
) -> dict[str, BatchNormStatistics]:
    found = {}
    for name, shift in zip(chain.layer_names, twins.shifts, strict=True):
        if name in known:
            one = known[name]
            mean = (one.mean[twins.sources] + shift).astype(np.float32)
            found[name] = BatchNormStatistics(mean, one.std[twins.sources])
    return found


def aligned(reference: Model, model: Model, *, fold: bool = False) -> Model:
    """Return the reference with its channels scaled and copied as those of the model are.

    So tensors of one name hold the same numbers: qtool.quant.rescale.aligned, then smoothing's.
    """
    result = smoothing.aligned(aligned_factors(reference, model, fold=fold), model)
    text = model.ir.metadata_props.get(KEY)
    if text is None or KEY in reference.ir.metadata_props:
        return result
    typed = infer_shapes(result)
    sizes = {chain.name: (len(chain.made), chain.size) for chain in chains(typed)}
    found = _recorded(text, sizes)
    return result if found is None else with_twins(typed, found)


def _record(twins: Mapping[str, Twins]) -> str:
    parts = {name: [v.tolist() for v in _written(one)] for name, one in twins.items()}
    return json.dumps(parts, separators=(",", ":"))


def _written(twins: Twins) -> tuple[npt.NDArray[Any], ...]:
    at = twins.taken
    return at, twins.sources[at], twins.constants[at], twins.steps


def _recorded(text: str, sizes: Mapping[str, tuple[int, int]]) -> dict[str, Twins] | None:
    """Return the twins that a record says; None if it is damaged or of other tensors."""
    try:
        found: dict[str, Any] = json.loads(text)
        return {name: _read(parts, *sizes[name]) for name, parts in found.items()}
    except (ValueError, TypeError, AttributeError, OverflowError, KeyError, IndexError):
        return None


def _read(parts: list[Any], n_layers: int, size: int) -> Twins:
    at, sources = (np.array(part, np.intp) for part in parts[:2])
    constants, steps = (np.array(part, np.float64) for part in parts[2:])
    twins = Twins(np.arange(size), np.zeros(size), steps)
    twins.sources[at], twins.constants[at] = sources, constants
    inside = min(at.min(), sources.min()) >= 0 and sources.max() < size
    if not inside or steps.shape != (n_layers,) or not np.isfinite([*constants, *steps]).all():
        raise ValueError
    return twins
