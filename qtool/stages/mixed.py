"""mixed: what each type of integers would cost each layer, and the mixtures that lose least."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from qtool.cost import macs
from qtool.data.held import Held
from qtool.errors import ModelError, UsageError
from qtool.model import Model
from qtool.quant.knapsack import Assignment, Choice, best, frontier
from qtool.quant.layer_types import FLOAT, parse
from qtool.quant.pairs import Pair, pairs
from qtool.registry import lookup
from qtool.shapes import shapes
from qtool.stages._measure import Progress, measure_alone
from qtool.stages._noise import noise_of
from qtool.stages.calibrate import untracked
from qtool.stages.quantize import quantize

log = logging.getLogger("qtool")

COSTS = ("bytes", "macs")
FLOAT_BITS = 32
SCALE_BYTES = 4  # of each output channel
FLOAT_MACS = 4.0  # a float multiply-accumulate in integer ones: vector registers hold a quarter


def choices(
    model: Model,
    *,
    types: Sequence[str],
    cost: str = "bytes",
    importance: Mapping[str, float] | None = None,
    **options: Any,
) -> dict[str, list[Choice]]:
    """Return the choices of each layer with weights, by name, for quant.knapsack.

    model is a calibrated float model, with Gram matrices for exact losses. types are float, w8,
    w4, a16, w4a16, as --layer takes them. The loss of a type is the predicted noise over signal at
    the layer's output, times importance: what that does at the model's outputs. cost is the bytes
    of the weights, or multiply-accumulates, a float one counting FLOAT_MACS. options are those of
    `quantize`.

    Raises:
        UsageError: a type or cost is unknown.
        ModelError: the model has no statistics.
    """
    lookup(dict.fromkeys(COSTS), cost, "cost")
    if model.statistics is None:
        raise ModelError("the model has no statistics; run qtool calibrate --gram")
    weights, known = importance or {}, shapes(model)
    found: dict[str, list[Choice]] = {}
    for kind in types:
        parse(f"*={kind}")
        if kind == FLOAT:
            continue
        layers = (*options.get("layers", ()), f"*={kind}")
        quantized = quantize(model, check=False, **{**options, "layers": layers})
        for pair in pairs(quantized, model)[0]:
            noise = noise_of(pair, model.statistics)
            if pair.weight is None or noise is None:
                continue
            lost = noise.relative * weights.get(pair.label, 1.0)
            price = _cost(pair, kind, cost, macs(pair.node, known) or 0)
            found.setdefault(pair.label, []).append(Choice(kind, lost, price))
            if FLOAT in types and len(found[pair.label]) == 1:
                price = _cost(pair, FLOAT, cost, macs(pair.node, known) or 0)
                found[pair.label].insert(0, Choice(FLOAT, 0.0, price))
    return found


def mixtures(layers: Mapping[str, Sequence[Choice]]) -> list[Assignment]:
    """Return the mixtures from the least loss to the least cost, without repetitions."""
    return frontier(layers)


def mixture(layers: Mapping[str, Sequence[Choice]], budget: float) -> Assignment:
    """Return the mixture of the least loss whose cost is within the budget.

    Raises:
        UsageError: even the cheapest is above it.
    """
    found = best(layers, budget)
    if found is None:
        least = sum(min(c.cost for c in options) for options in layers.values())
        raise UsageError(f"a budget of {budget:g} is too small: the least is {least:g}")
    return found


def layer_options(assignment: Assignment, base: str = "w8") -> tuple[str, ...]:
    """Return --layer options for an assignment; layers of the base type need none."""
    return tuple(f"{name}={c.type}" for name, c in assignment.items() if c.type != base)


def importance(
    model: Model,
    held: Held,
    *,
    threads: int = 1,
    progress: Progress = untracked,
    **options: Any,
) -> dict[str, float]:
    """Return, by layer, the noise share at the model's outputs per noise share at its own.

    Measured on samples with one layer quantized at a time.
    """
    paired = [p for p in pairs(quantize(model, check=False, **options), model)[0] if p.weight_at]
    measured = measure_alone(model, paired, held, threads=threads, progress=progress)
    found = {}
    for pair in paired:
        mine = measured[pair.label]
        if mine.layer is not None and mine.outputs is not None:
            found[pair.label] = 10 ** ((mine.layer - mine.outputs) / 10)
    return found


def _cost(pair: Pair, kind: str, cost: str, n_macs: int) -> float:
    assert pair.weight is not None
    given = None if kind == FLOAT else parse(f"*={kind}")[1]
    wide = given is None or given.activation_bits == 16
    if cost == "macs":
        return n_macs * (FLOAT_MACS if wide else 1.0)
    bits = FLOAT_BITS if given is None else given.weight_bits or 8
    scales = 0 if given is None else SCALE_BYTES * pair.weight.scale.size
    return pair.weight.real.size * bits / 8 + scales
