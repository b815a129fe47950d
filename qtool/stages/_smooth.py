"""Smoothing on samples: rows of the tensor of each site, and the factors chosen."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from qtool.model import Model
from qtool.qparams import limits
from qtool.quant.smoothing import sites, smoothed
from qtool.quant.smoothing_strength import Precision, chosen_for
from qtool.runtime.ort import OrtSession
from qtool.runtime.sweep import sweep
from qtool.stages._correction import some
from qtool.stages._decisions import Decisions
from qtool.stages.quantize_options import Options

log = logging.getLogger("qtool")

SAMPLES = 256  # that are looked at
ROWS = 1024  # of each tensor, of all samples together

Array = npt.NDArray[Any]


def smooth(
    reference: Model,
    model: Model,
    decisions: Decisions,
    *,
    data: Any,
    threads: int,
    options: Options,
) -> tuple[Model, Model]:
    """Return both with channels smoothed where that lowers the predicted error, or themselves.

    They are the same function on the samples, and so are the results, which have no statistics:
    those of the model are of other values. With one scale per weight, 1 / t goes into
    normalizations only, for rows of a weight that shrink are rounded more coarsely.
    """
    found = [s for s in sites(reference) if options.per_channel or not s.in_weights]
    if not found:
        return reference, model
    rows = _rows(reference, [site.name for site in found], some(data, SAMPLES), threads)
    levels, half = (high - low for low, high in map(limits, (options.activations, options.weights)))
    precision = Precision(levels, half // 2, options.per_channel)
    tried = {site.name: chosen_for(site.weights(), rows[site.name], precision) for site in found}
    chosen = {name: made for name, made in tried.items() if made is not None}
    log.info("smoothed %d of %d tensors in front of linear layers", len(chosen), len(found))
    if not chosen:
        return reference, model
    decisions.say("smooth", {name: made.strength for name, made in chosen.items()})
    factors = {name: made.factors for name, made in chosen.items()}
    both = [replace(smoothed(one, factors), statistics=None) for one in (reference, model)]
    return both[0], both[1]


def _rows(
    model: Model, names: list[str], samples: Sequence[Callable[[], Any]], threads: int
) -> dict[str, list[Array]]:
    """Return rows of each tensor, (N, K), sample by sample."""
    held: dict[int, dict[str, Array]] = {}
    most = -(-ROWS // len(samples))

    def see(item: Any, outputs: Mapping[str, Array]) -> None:
        held[item.index] = {name: _spread(values, most) for name, values in outputs.items()}

    sweep(OrtSession(model, outputs=names), samples, see, threads=threads)
    return {name: [held[i][name] for i in sorted(held)] for name in names}


def _spread(values: Array, most: int) -> Array:
    """Return up to so many of a tensor's rows, spread evenly."""
    rows = values.reshape(-1, values.shape[-1])
    return rows[:: -(-len(rows) // most)].astype(np.float64)
