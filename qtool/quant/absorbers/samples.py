"""A little less than the least value that the samples showed."""

from __future__ import annotations

import numpy as np

from qtool.model import BatchNormStatistics
from qtool.quant.equalize import ChannelStatistics, Float64

MARGIN = 0.5  # standard deviations: other samples go lower


def samples(seen: ChannelStatistics, trained: BatchNormStatistics | None) -> Float64:
    """Return minimum - std / 2 of each channel: absorbing that is exact on the samples."""
    return np.asarray(seen.minimum - MARGIN * np.sqrt(seen.variance))
