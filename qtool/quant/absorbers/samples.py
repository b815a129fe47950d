"""The least value that the samples showed."""

from __future__ import annotations

from qtool.model import BatchNormStatistics
from qtool.quant.equalize import ChannelStatistics, Float64


def samples(seen: ChannelStatistics, trained: BatchNormStatistics | None) -> Float64:
    """Return the minimum of each channel: absorbing that is exact on the samples."""
    return seen.minimum
