"""Smoothing on samples: what is known of the channels of each site, and the factors chosen."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from qtool.model import Model
from qtool.qparams import limits
from qtool.quant.smoothing import Channels, chosen_for, sites, smoothed
from qtool.runtime.ort import OrtSession
from qtool.runtime.sweep import sweep
from qtool.stages._correction import some
from qtool.stages._decisions import Decisions

log = logging.getLogger("qtool")

SAMPLES = 64  # whose channels are looked at
FIXED = 2.0**32  # mean squares are summed in this unit, exactly: their order does not matter

Array = npt.NDArray[Any]


class _Sums:
    """Ends and mean square of the channels along the last axis, over samples in any order."""

    def __init__(self) -> None:
        self._low: Any = np.inf
        self._high: Any = -np.inf
        self._squares: Any = 0
        self._n = 0

    def add(self, values: Array) -> None:
        rows = values.reshape(-1, values.shape[-1]).astype(np.float64)
        self._low = np.minimum(self._low, rows.min(0))
        self._high = np.maximum(self._high, rows.max(0))
        self._squares = self._squares + np.rint(np.square(rows).mean(0) * FIXED).astype(np.int64)
        self._n += 1

    def finish(self) -> Channels:
        square = np.asarray(self._squares / (FIXED * max(1, self._n)), np.float64)
        return Channels(np.asarray(self._low), np.asarray(self._high), square)


def smooth(
    reference: Model,
    model: Model,
    decisions: Decisions,
    *,
    data: Any,
    threads: int,
    activations: str,
    weights: str,
) -> tuple[Model, Model]:
    """Return both with channels smoothed where that lowers the predicted error, or themselves.

    They are the same function on the samples, and so are the results, which have no statistics:
    those of the model are of other values.
    """
    names = [site.name for site in sites(reference)]
    if not names:
        return reference, model
    known = _channels(reference, names, some(data, SAMPLES), threads)
    levels, weight_levels = (high - low for low, high in (limits(activations), limits(weights)))
    chosen = {}
    for site in sites(reference):
        found = chosen_for(site, known[site.name], levels=levels, weight_levels=weight_levels // 2)
        if found is not None:
            chosen[site.name] = found
    if chosen:
        decisions.say("smooth", {name: found.strength for name, found in chosen.items()})
    log.info("smoothed %d of %d tensors in front of linear layers", len(chosen), len(names))
    if not chosen:
        return reference, model
    factors = {name: found.factors for name, found in chosen.items()}
    made = [replace(smoothed(one, factors), statistics=None) for one in (reference, model)]
    return made[0], made[1]


def _channels(
    model: Model, names: list[str], samples: Iterable[Callable[[], Any]], threads: int
) -> dict[str, Channels]:
    sums = {name: _Sums() for name in names}
    lock = threading.Lock()

    def see(_: Any, outputs: Mapping[str, Array]) -> None:
        with lock:
            for name, values in outputs.items():
                sums[name].add(values)

    sweep(OrtSession(model, outputs=names), samples, see, threads=threads)
    return {name: one.finish() for name, one in sums.items()}
