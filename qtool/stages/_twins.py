"""Copies of channels in the place of those that never change; see qtool/quant/twins.py."""

from __future__ import annotations

import logging
from typing import Any

from qtool.model import Model
from qtool.qparams import limits
from qtool.quant.chains import chains
from qtool.quant.twins import find_twins, with_twins
from qtool.shapes import infer_shapes
from qtool.stages._correction import some
from qtool.stages._decisions import Decisions
from qtool.stages._rescale import SAMPLES, channel_statistics

log = logging.getLogger("qtool")


def give_twins(
    reference: Model,
    model: Model,
    decisions: Decisions,
    *,
    data: Any,
    threads: int,
    activations: str,
) -> tuple[Model, Model]:
    """Return both models with twins, or as they are where no channel can have one.

    reference computes what the float model does, model is what to calibrate and quantize.
    """
    typed = infer_shapes(model)
    if not chains(typed):
        return reference, model
    known = channel_statistics(typed, some(data, SAMPLES), threads=threads)
    low, high = limits(activations)
    found = find_twins(typed, known, levels=high - low)
    if not found:
        return reference, model
    taken = {name: len(twins.taken) for name, twins in found.items()}
    n_taken = sum(taken.values())
    decisions.say("twins", taken)
    log.info("%d channels that never change are now copies of others, which round finer", n_taken)
    result = with_twins(typed, found)
    same = reference is model
    return (result if same else with_twins(infer_shapes(reference), found)), result
