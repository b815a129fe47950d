"""mixed: what each type of integers would cost each layer, and the mixtures that lose least."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from qtool.cost import macs
from qtool.data import Samples
from qtool.data.held import Held, hold
from qtool.errors import ModelError, UsageError
from qtool.model import Model, Statistics
from qtool.quant.knapsack import Assignment, Choice, best, frontier
from qtool.quant.layer_types import FLOAT, parse
from qtool.quant.pairs import Pair, pairs
from qtool.registry import lookup
from qtool.shapes import shapes
from qtool.stages._measure import Progress, measure_alone
from qtool.stages._noise import noise_of
from qtool.stages._probe import comparable
from qtool.stages.calibrate import calibrate, untracked
from qtool.stages.quantize import quantize

log = logging.getLogger("qtool")

COSTS = ("bytes", "macs")
TYPES = (FLOAT, "w8", "w4")
HELD = 16  # samples that tell what each layer's noise does at the outputs
FLOAT_BITS = 32
SCALE_BYTES = 4  # of each output channel
FLOAT_MACS = 4.0  # a float multiply-accumulate in integer ones: vector registers hold a quarter


def layers_within(
    model: Model,
    budget: float,
    *,
    data: Samples | None = None,
    threads: int = 1,
    progress: Progress = untracked,
    **options: Any,
) -> tuple[str, ...]:
    """Return --layer options that lose least within a budget of bytes of weights.

    Layers get 8 or 4-bit weights; where the budget is above 8 bits everywhere, float or 8 bits.
    Gram matrices are the model's, else of data. options are those of `quantize` that it takes
    without samples.

    Raises:
        UsageError: there are neither statistics nor data, or even 4 bits everywhere are too much.
    """
    if model.statistics is None and data is None:
        raise UsageError("a mixture goes by predicted loss: give --data, or run qtool calibrate")
    if data is not None and (model.statistics is None or not model.statistics.grams):
        model = calibrate(model, data=data, gram=True, threads=threads, progress=progress)
    held = None if data is None else hold(data, HELD)
    known = choices(model, types=TYPES, data=held, threads=threads, progress=progress, **options)
    base = sum(c.cost for of_layer in known.values() for c in of_layer if c.type == "w8")
    useless = "w4" if budget >= base else FLOAT
    chosen = mixture({n: [c for c in cs if c.type != useless] for n, cs in known.items()}, budget)
    counts = Counter(choice.type for choice in chosen.values())
    kinds = ", ".join(f"{counts[kind]} {kind}" for kind in TYPES if counts[kind])
    n_bytes = sum(choice.cost for choice in chosen.values())
    log.info("mixture of %s: %s bytes of weights", kinds, f"{n_bytes:,.0f}")
    return layer_options(chosen)


def choices(
    model: Model,
    *,
    types: Sequence[str],
    cost: str = "bytes",
    data: Held | None = None,
    threads: int = 1,
    progress: Progress = untracked,
    **options: Any,
) -> dict[str, list[Choice]]:
    """Return the choices of each layer with weights, by name, for quant.knapsack.

    model is a calibrated float model, with Gram matrices for exact losses. types are float, w8,
    w4, a16, w4a16, as --layer takes them. The loss of a type is the noise over signal that it
    alone makes: at the model's outputs, measured, where there are samples, else predicted at the
    layer's own. cost is the bytes of the weights, or multiply-accumulates, a float one counting
    FLOAT_MACS. options are those of `quantize`.

    Raises:
        UsageError: a type or cost is unknown.
        ModelError: the model has no statistics.
    """
    lookup(dict.fromkeys(COSTS), cost, "cost")
    if model.statistics is None:
        raise ModelError("the model has no statistics; run qtool calibrate --gram")
    known = shapes(model)
    found: dict[str, list[Choice]] = {}
    for kind in types:
        parse(f"*={kind}")
        if kind == FLOAT:
            continue
        layers = (*options.get("layers", ()), f"*={kind}")
        quantized = quantize(model, check=False, **{**options, "layers": layers})
        paired = [p for p in pairs(quantized, model)[0] if p.weight is not None]
        losses = _predicted(paired, model.statistics)
        if data is not None:
            losses |= _measured(model, paired, data, threads, progress)
        for pair in paired:
            if pair.label not in losses:
                continue
            if FLOAT in types and pair.label not in found:
                price = _cost(pair, FLOAT, cost, macs(pair.node, known) or 0)
                found[pair.label] = [Choice(FLOAT, 0.0, price)]
            price = _cost(pair, kind, cost, macs(pair.node, known) or 0)
            found.setdefault(pair.label, []).append(Choice(kind, losses[pair.label], price))
    return found


def _predicted(paired: Sequence[Pair], statistics: Statistics) -> dict[str, float]:
    noises = {pair.label: noise_of(pair, statistics) for pair in paired}
    return {label: noise.relative for label, noise in noises.items() if noise is not None}


def _measured(
    model: Model, paired: Sequence[Pair], data: Held, threads: int, progress: Progress
) -> dict[str, float]:
    """Return the noise over signal at the model's outputs, where it can be told."""
    measured = measure_alone(
        model, paired, data, threads=threads, progress=progress, scaled=comparable
    )
    known = {label: one.outputs for label, one in measured.items()}
    return {label: 10 ** (-db / 10) for label, db in known.items() if db is not None}


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
        raise UsageError(f"a budget of {budget:,.0f} is too small: the least is {least:,.0f}")
    return found


def layer_options(assignment: Assignment, base: str = "w8") -> tuple[str, ...]:
    """Return --layer options for an assignment; layers of the base type need none."""
    return tuple(f"{name}={c.type}" for name, c in assignment.items() if c.type != base)


def _cost(pair: Pair, kind: str, cost: str, n_macs: int) -> float:
    assert pair.weight is not None
    given = None if kind == FLOAT else parse(f"*={kind}")[1]
    wide = given is None or given.activation_bits == 16
    if cost == "macs":
        return n_macs * (FLOAT_MACS if wide else 1.0)
    bits = FLOAT_BITS if given is None else given.weight_bits or 8
    scales = 0 if given is None else SCALE_BYTES * pair.weight.scale.size
    return pair.weight.real.size * bits / 8 + scales
