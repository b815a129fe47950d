"""Trial runs: does onnxruntime load a model and run it?"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from qtool.errors import QtoolError
from qtool.model import Model, TensorSpec
from qtool.runtime.ort import Array, OrtSession

log = logging.getLogger("qtool")

MAX_ELEMENTS = 1 << 28  # of an input
GUESS = 64  # size of an unknown dim behind the batch: legal for most image and sequence models


def check_runs(model: Model) -> None:
    """Load the model in onnxruntime and run it once on random inputs.

    Raises:
        ModelError: onnxruntime cannot load it.
        QtoolError: it cannot run it, though all dims of the inputs but the first are known.
    """
    session = OrtSession(model)
    specs = model.inputs()
    unfit = next((spec for spec in specs if not _can_make(spec)), None)
    if unfit is not None:
        log.info("loaded in onnxruntime but not run: no values can be made for input %s", unfit)
        return
    try:
        session.run(random_feeds(specs))
    except QtoolError as error:
        if all(known(spec) for spec in specs):
            raise
        log.info("loaded in onnxruntime but not run: the sizes of its inputs are open (%s)", error)


def known(spec: TensorSpec) -> bool:
    """Return whether every dim but the first, the batch, is a number."""
    return spec.shape is not None and all(isinstance(d, int) for d in spec.shape[1:])


def _can_make(spec: TensorSpec) -> bool:
    dims = [d for d in spec.shape or () if isinstance(d, int)]
    return " " not in spec.dtype and math.prod(dims) <= MAX_ELEMENTS


def random_feeds(specs: Sequence[TensorSpec], *, seed: int = 0) -> dict[str, Array]:
    """Return seeded inputs: normal floats, integers 0 and 1; batch 1, open dims GUESS."""
    rng = np.random.default_rng(seed)
    return {spec.name: _random(spec, rng) for spec in specs}


def _random(spec: TensorSpec, rng: np.random.Generator) -> Array:
    dims = spec.shape or ()
    shape = [d if isinstance(d, int) else (1 if i == 0 else GUESS) for i, d in enumerate(dims)]
    if spec.dtype == "str":
        return np.full(shape, "", dtype=object)
    dtype: Any = np.dtype(spec.dtype)
    if np.issubdtype(dtype, np.floating):
        return rng.standard_normal(shape).astype(dtype)
    return rng.integers(0, 2, shape).astype(dtype)
