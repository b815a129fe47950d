"""What weights cost in a file: order-0 entropy and the table that decoding needs."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]
TABLE_BITS = 12  # of one symbol's frequency
RARE = 0.05  # times that a symbol never seen counts as seen


def lengths(counts: npt.NDArray[np.int64]) -> Float64:
    """Return the bits of each symbol under an ideal code for these counts."""
    seen = counts + RARE
    return np.asarray(-np.log2(seen / seen.sum()))


def entropy_bits(counts: npt.NDArray[np.int64]) -> float:
    """Return the bits that symbols with these counts take, with their table."""
    found = counts[counts > 0].astype(np.float64)
    if found.size <= 1:
        return float(TABLE_BITS)
    return float(-(found * np.log2(found / found.sum())).sum()) + TABLE_BITS * found.size


def tensor_bits(values: npt.NDArray[np.generic]) -> float:
    """Return what a tensor takes as symbols: each different value is one."""
    return entropy_bits(np.unique(values, return_counts=True)[1])
