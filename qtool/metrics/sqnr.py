"""sqnr: signal to quantization noise, 10 log10(sum target**2 / sum (output - target)**2), in dB."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from qtool.metrics._metric import INPUT, LABELS, REFERENCE, Metric, Rows, flat


def rows(outputs: npt.NDArray[Any], target: npt.NDArray[Any]) -> Rows:
    """Return (sum of squares of the target, sum of squared errors)."""
    wanted = flat(target)
    error = flat(outputs, target) - wanted
    return np.stack([np.square(wanted).sum(axis=1), np.square(error).sum(axis=1)], axis=1)


def value(rows: Rows) -> float:
    """Return the ratio in dB; infinite for no noise at all, -infinite for no signal."""
    signal, noise = rows.sum(axis=0).tolist()
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal else -math.inf


METRIC = Metric(rows, value, (REFERENCE, LABELS, INPUT), higher_is_better=True, unit="dB")
