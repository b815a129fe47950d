"""Absorbers: how much of each channel a bias can absorb. See docs/accuracy.md."""

from __future__ import annotations

from typing import Protocol

from qtool.model import BatchNormStatistics
from qtool.quant.absorbers.batch_norm import batch_norm
from qtool.quant.absorbers.samples import samples
from qtool.quant.equalize import ChannelStatistics, Float64


class Absorber(Protocol):
    """Says below which value each channel of a layer's output never falls."""

    def __call__(
        self, seen: ChannelStatistics, trained: BatchNormStatistics | None
    ) -> Float64 | None:
        """Return the values (C,), or None where they are not known.

        seen: on the samples; trained: what a folded BatchNormalization was trained to give.
        """
        ...


ABSORBERS: dict[str, Absorber] = {"samples": samples, "batch-norm": batch_norm}
