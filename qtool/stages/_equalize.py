"""Cross-layer equalization on samples: what is known of the channels, and whether it pays."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from qtool.model import Model
from qtool.qparams import limits
from qtool.quant.equalize import (
    ChannelStatistics,
    equalized,
    observed_names,
    problem,
)
from qtool.quant.equalizers import EQUALIZERS
from qtool.quant.equalizers.noise import predicted
from qtool.registry import lookup
from qtool.runtime.ort import OrtSession
from qtool.runtime.sweep import sweep
from qtool.shapes import infer_shapes
from qtool.stages._channel_sums import ChannelSums
from qtool.stages._correction import some

log = logging.getLogger("qtool")

SAMPLES = 64  # whose channels are looked at
LEAST_GAIN = 0.5  # dB, of the predicted error
SURE_GAIN = 1.6  # dB, by which the prediction was off at most; see docs/accuracy.md

Array = npt.NDArray[Any]


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


def equalize(
    model: Model,
    method: str,
    *,
    data: Any,
    threads: int,
    weights: str,
    activations: str,
    per_channel: bool,
    least: float = LEAST_GAIN,
) -> tuple[Model, Model]:
    """Return the model equalized, in two forms, or the model twice where nothing is won.

    The first computes what the model does; the second is what to calibrate and quantize: a Clip
    keeps its limit, which is right within the range of a quantized tensor. Both have no
    statistics: those of the model are of other values.
    """
    typed = infer_shapes(model)
    known = channel_statistics(typed, some(data, SAMPLES), threads=threads)
    levels, weight_levels = (limits(t) for t in (activations, weights))
    found = problem(
        typed, known, per_channel=per_channel, levels=levels[1] - levels[0],
        weight_levels=weight_levels[1] if weight_levels[0] else weight_levels[1] // 2,
    )  # fmt: skip
    if found is None:
        log.info("nothing to equalize: no channel runs between layers that can share a factor")
        return model, model
    factors = lookup(EQUALIZERS, method, "equalizer")(found)
    before, after = (predicted(found, f) for f in (np.ones(len(factors)), factors))
    gain = 10 * float(np.log10(before / after)) if after > 0 else 0.0
    if gain < least:
        log.info("not equalized: the predicted error would fall by %.1f dB only", gain)
        return model, model
    log.info(
        "equalized %d of %d channels: predicted error %.1f dB lower",
        int((factors != 1).sum()), len(factors), gain,
    )  # fmt: skip
    return equalized(typed, factors), equalized(typed, factors, fold=True)
