"""Channels scaled and shifted on samples: what is known of them, and whether it pays."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from qtool.model import Json, Model
from qtool.qparams import limits
from qtool.quant.absorb import absorption, decibels
from qtool.quant.absorbers import ABSORBERS
from qtool.quant.equalize import ChannelStatistics, Float64, Problem, observed_names, problem
from qtool.quant.equalizers import EQUALIZERS
from qtool.quant.equalizers.noise import predicted
from qtool.quant.rescale import Change, named, rescaled
from qtool.registry import lookup
from qtool.runtime.ort import OrtSession
from qtool.runtime.sweep import sweep
from qtool.shapes import infer_shapes
from qtool.stages._channel_sums import ChannelSums
from qtool.stages._correction import some
from qtool.stages._decisions import Decisions

log = logging.getLogger("qtool")

SAMPLES = 64  # whose channels are looked at
LEAST_GAIN = 0.5  # dB, of the predicted error
SURE_GAIN = 1.6  # dB, below which the prediction has been wrong; see docs/accuracy.md

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Wanted:
    """What quantize asks for: the method and the least predicted gain of each, or None."""

    equalizer: str | None
    absorber: str | None
    least_equalized: float
    least_absorbed: float
    weights: str
    activations: str
    per_channel: bool


def channel_statistics(
    model: Model, samples: Iterable[Callable[[], Any]], *, threads: int
) -> dict[str, ChannelStatistics]:
    """Return the statistics of the channels of the tensors that equalization looks at."""
    inputs = {spec.name for spec in model.inputs()}
    names = observed_names(model)
    found = {name: ChannelSums() for name in names}
    lock = threading.Lock()

    def see(_: Any, outputs: Mapping[str, Array]) -> None:
        for name, values in outputs.items():
            if name in found and values.ndim >= 2:
                with lock:
                    found[name].add(values)

    wanted = [name for name in names if name not in inputs]
    sweep(OrtSession(model, outputs=wanted), samples, see, threads=threads, before=_feeds(see))
    return {name: one.finish() for name, one in found.items() if one.n}


def _feeds(see: Callable[[Any, Mapping[str, Array]], None]) -> Any:
    return lambda sample, feeds: see(sample, feeds)


def rescale(
    model: Model, wanted: Wanted, decisions: Decisions, *, data: Any, threads: int
) -> tuple[Model, Model]:
    """Return the model equalized and with biases absorbed, in two forms, or the model twice.

    The first computes what the model does; the second is what to calibrate and quantize: a Clip
    keeps one limit, which is right within the range of a quantized tensor. Both have no
    statistics: those of the model are of other values.
    """
    typed = infer_shapes(model)
    known = channel_statistics(typed, some(data, SAMPLES), threads=threads)
    levels, weight_levels = (limits(t) for t in (wanted.activations, wanted.weights))
    found = problem(
        typed, known, per_channel=wanted.per_channel, levels=levels[1] - levels[0],
        weight_levels=weight_levels[1] if weight_levels[0] else weight_levels[1] // 2,
    )  # fmt: skip
    if found is None:
        log.info("nothing to equalize: no channel runs between layers that can share a factor")
        return model, model
    factors = _equalized(found, wanted, decisions)
    factors, offsets = _absorbed(typed, found, known, factors, wanted, decisions)
    change = Change(named(found.ties, factors, 1.0), offsets)
    if not change.factors and not change.offsets:
        return model, model
    return rescaled(typed, change), rescaled(typed, change, fold=True)


def _equalized(found: Problem, wanted: Wanted, decisions: Decisions) -> Float64:
    """Return the factors, all 1 where too little is won."""
    one = np.ones(len(found.lower))
    if wanted.equalizer is None:
        return one
    factors = lookup(EQUALIZERS, wanted.equalizer, "equalizer")(found)
    gain = decibels(predicted(found, one), predicted(found, factors))
    kept = gain >= wanted.least_equalized
    decisions.say("equalize", _said(wanted.equalizer, kept, gain))
    if not kept:
        log.info("not equalized: the predicted error would fall by %.1f dB only", gain)
        return one
    log.info(
        "equalized %d of %d channels: predicted error %.1f dB lower",
        int((factors != 1).sum()), len(factors), gain,
    )  # fmt: skip
    return factors


def _absorbed(
    model: Model,
    found: Problem,
    known: dict[str, ChannelStatistics],
    factors: Float64,
    wanted: Wanted,
    decisions: Decisions,
) -> tuple[Float64, dict[str, Float64]]:
    """Return the factors and the offsets by tensor, none where too little is won.

    Where the model is equalized, other factors may be better with offsets.
    """
    if wanted.absorber is None:
        return factors, {}
    can = absorption(model, found, known, lookup(ABSORBERS, wanted.absorber, "absorber"))
    if not can.reach.any():
        log.info("no bias absorbed: no channel stays above zero where offsets pass")
        return factors, {}
    tried = [factors]
    if wanted.equalizer is not None and (factors != 1).any():
        tried.append(lookup(EQUALIZERS, wanted.equalizer, "equalizer")(can.utmost))
    made = [(each, can(each)) for each in tried]
    best, absorbed = min(made, key=lambda pair: pair[1].error if pair[1].n_ranges else np.inf)
    won = decibels(predicted(found, factors), absorbed.error) if absorbed.n_ranges else 0.0
    gain = max(won, 0.0)
    kept = absorbed.n_ranges > 0 and gain >= wanted.least_absorbed
    decisions.say("absorb", _said(wanted.absorber, kept, gain))
    if not kept:
        log.info("no bias absorbed: the predicted error would fall by %.2f dB only", gain)
        return factors, {}
    log.info(
        "absorbed the biases of %d channels in %d ranges: predicted error %.2f dB lower",
        int((absorbed.offsets > 0).sum()), absorbed.n_ranges, gain,
    )  # fmt: skip
    return best, named(can.tied, absorbed.offsets, 0.0)


def _said(method: str, kept: bool, gain: float) -> dict[str, Json]:
    """Return a decision and the gain in dB that it was made by."""
    return {"method": method if kept else "none", "tried": method, "predicted_db": round(gain, 2)}
