"""What quantize calibrates by itself: ranges, and the Gram matrices that weights are rounded by."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from qtool.errors import UsageError
from qtool.model import Model
from qtool.shapes import infer_shapes
from qtool.stages.calibrate import calibrate
from qtool.stages.quantize_options import Options
from qtool.statistics.gram import gram_layers

log = logging.getLogger("qtool")

GRAM_BYTES = 1 << 30  # of Gram matrices that are summed without being asked for

Progress = Callable[..., Iterable[Any]]


def calibrated(
    model: Model, options: Options, data: Any, threads: int, progress: Progress
) -> Model:
    """Return the model with the statistics that static quantization needs.

    Raises:
        UsageError: there are no samples.
    """
    if data is None:
        raise UsageError(
            "static quantization needs statistics: give --data, or run qtool calibrate first"
        )
    wanted = options.rounding != "nearest" and not options.is_sequential(data)
    gram = wanted and _gram_bytes(model) <= GRAM_BYTES
    # A node that stays in float does not pass on the range of what it reads any more.
    partly = options.only or options.exclude or options.layers
    tensors = ("*",) if partly else None
    return calibrate(
        model, data=data, threads=threads, gram=gram, tensors=tensors, progress=progress
    )


def with_grams(
    model: Model, options: Options, data: Any, threads: int, progress: Progress
) -> Model:
    """Return the model with Gram matrices: those it has, else of data; without data, the model.

    Raises:
        UsageError: the rounding asks for them, and there are none or they would be too large.
    """
    known = model.statistics
    if known is not None and known.grams:
        return model
    problem = "" if data is not None else "give --data, or a model of qtool calibrate --gram"
    if data is not None and (n_bytes := _gram_bytes(model)) > GRAM_BYTES:
        problem = f"here of {n_bytes / 1e9:.1f} GB: sum them by qtool calibrate --gram --memory 4G"
    if problem and options.needs_grams:
        raise UsageError(f"--rounding {options.rounding} needs Gram matrices: {problem}")
    if problem:
        if data is not None:
            log.warning("the samples are not used: rounding by them takes matrices, %s", problem)
        return model
    found = calibrate(model, data=data, threads=threads, gram=True, tensors=(), progress=progress)
    if known is None or found.statistics is None:
        return found
    return replace(model, statistics=replace(known, grams=found.statistics.grams))


def _gram_bytes(model: Model) -> int:
    """Return the memory that all Gram matrices take."""
    layers = {layer.what: layer.state_bytes for layer in gram_layers(infer_shapes(model))}
    return sum(layers.values())
