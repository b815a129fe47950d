"""Three standard deviations below the mean that training had (Nagel et al., arXiv 1906.04721)."""

from __future__ import annotations

import numpy as np

from qtool.model import BatchNormStatistics
from qtool.quant.equalize import ChannelStatistics, Float64

DEVIATIONS = 3.0  # 0.13 % of normal values are below


def batch_norm(seen: ChannelStatistics, trained: BatchNormStatistics | None) -> Float64 | None:
    """Return mean - 3 std of each channel, or None without statistics."""
    if trained is None:
        return None
    return np.asarray(trained.mean.astype(np.float64) - DEVIATIONS * trained.std)
