"""What layers that lost channels make up for, one after the other, on samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from qtool.hessian import rows_of
from qtool.model import Model
from qtool.stages._followed import Follower, followed, measured, shift
from qtool.stages._weights import Edit, weight_layers


def refit_in_turn(
    model: Model,
    pruned: Model,
    kept: Mapping[str, npt.NDArray[np.bool_]],
    samples: Sequence[Any],
    threads: int,
) -> None:
    """Fit weights and biases of pruned, in place, to what the model's layers give.

    Front to back: each layer sees the inputs that those before it, fitted, leave. kept: for layers
    that lost outputs, by name, which stay.
    """
    follower = Follower(model, samples, threads, shaped=pruned, second=True)
    edit, originals = Edit(pruned), {layer.name: layer for layer in weight_layers(model)}
    for layer in weight_layers(pruned):
        original = originals.get(layer.name)
        found = original and follower.of(pruned, original, kept.get(layer.name))
        if not found:
            continue
        layout = rows_of(layer.node, layer.index)
        before = layout.of(layer.weights).astype(np.float64)
        after = followed(before, measured(found), found)
        edit.store(layer.value, layout.back(after, layer.shape).astype(layer.weights.dtype))
        edit.add_bias(layer, shift(before, after, found))
