"""Keeps Gram matrices within a memory budget: several passes, and finished matrices on disk."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from qtool.errors import UsageError
from qtool.model import GramStatistics
from qtool.statistics.gram import Layer

MEGABYTE = 10**6
KEPT_BYTES = 32 << 20  # glibc gives what is larger back at once, others sooner


@dataclass
class Pass:
    """The layers whose matrices one pass over the samples sums, and the memory that takes."""

    layers: list[Layer] = field(default_factory=list)
    n_bytes: int = 0


def plan_passes(
    layers: Sequence[Layer], *, threads: int, base_bytes: int, memory: int | None
) -> list[Pass]:
    """Return the fewest passes that fit, with the layers in their order.

    base_bytes is what a pass takes without matrices; memory is the budget, None for no limit.
    Layers that have the same matrix cost it once.

    Raises:
        UsageError: the base, or one layer alone, does not fit.
    """
    if memory is not None and base_bytes > memory:
        raise UsageError(
            f"--memory {megabytes(memory)} is too little: running the model needs "
            f"{megabytes(base_bytes)}; give that, or fewer --threads"
        )
    passes = [Pass(n_bytes=base_bytes)]
    for layer in layers:
        grown = _bytes([*passes[-1].layers, layer], threads, base_bytes)
        if memory is not None and grown > memory and passes[-1].layers:
            passes.append(Pass())
            grown = _bytes([layer], threads, base_bytes)
        if memory is not None and grown > memory:
            raise UsageError(
                f"--memory {megabytes(memory)} is too little: layer {layer.name!r} alone needs "
                f"{megabytes(grown)}; give that, or fewer --threads"
            )
        passes[-1].layers.append(layer)
        passes[-1].n_bytes = grown
    return passes


def _bytes(layers: Sequence[Layer], threads: int, base_bytes: int) -> int:
    states = {layer.what: layer.state_bytes for layer in layers}
    scratch = max(layer.scratch_bytes for layer in layers)
    kept = threads * min(scratch, KEPT_BYTES)  # by the allocator, what smaller layers took
    copied = max(states.values())  # when a matrix is finished
    return base_bytes + sum(states.values()) + kept + max(threads * scratch, copied)


def megabytes(n_bytes: int) -> str:
    """Return a size as people write it to --memory: "85M"."""
    return f"{-(-n_bytes // MEGABYTE)}M"


def spilled(statistics: GramStatistics) -> GramStatistics:
    """Return the same statistics, their values mapped from a nameless temporary file.

    The system can then drop the values from memory and read them again when they are used.
    """
    values = statistics.values
    if values.nbytes == 0:
        return statistics
    with tempfile.TemporaryFile(prefix="qtool-") as file:
        file.write(values.data)
        file.flush()
        os.fsync(file.fileno())  # what is not written yet cannot be dropped
        mapped = np.memmap(file, np.uint64, mode="r", shape=values.shape)
    return replace(statistics, values=mapped)
