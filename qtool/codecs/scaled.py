"""scaled: float32 values that are those of another row, each times the same factor, rounded once.

The scales of biases are: input scale times the scales of the weights. Layout: the row (a number),
the factor (float32). Both rows have the same size, and the other one is not scaled itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from qtool.codecs.streams import Array, Bytes, Decoder, Encoder, number, take_number
from qtool.errors import FormatError

MIN_VALUES, MAX_VALUES = 8, 1 << 20
MAX_ROWS = 1 << 20
FACTOR_BYTES = 4
NEIGHBOURS = 3  # floats around the quotient that are tried
TOLERANCE = 1e-6  # of quotients, before all values are compared
ID = 9


def encode(values: Array, encoder: Encoder) -> bytes | None:
    """Return row and factor; None where no row of encoder.others gives these values."""
    if values.dtype != np.float32 or not MIN_VALUES <= values.size <= MAX_VALUES:
        return None
    wanted = values.reshape(-1)
    for row, other in encoder.others.items():
        if other.size == wanted.size and (factor := _factor(wanted, other.reshape(-1))) is not None:
            return number(row) + bytes(factor.astype("<f4").tobytes())
    return None


def _factor(wanted: Array, other: Array) -> np.float32 | None:
    """Return the float32 factor that turns other into wanted, bit for bit."""
    for factor in _candidates(wanted, other):
        if _times(other, factor).tobytes() == wanted.tobytes():
            return factor
    return None


def _candidates(wanted: Array, other: Array) -> Iterator[np.float32]:
    with np.errstate(all="ignore"):
        first, last = (np.float64(wanted[i]) / np.float64(other[i]) for i in (0, -1))
    if not np.isfinite(first) or not abs(first - last) <= TOLERANCE * abs(first):
        return
    factor = below = above = np.float32(first)
    yield factor
    for _ in range(NEIGHBOURS):
        below, above = np.nextafter(below, np.float32(0)), np.nextafter(above, np.float32(np.inf))
        yield from (below, above)


def _times(other: Array, factor: np.float32) -> Array:
    with np.errstate(all="ignore"):
        return np.asarray(other * factor, np.float32)


def decode(data: memoryview, out: Bytes, decoder: Decoder) -> None:
    """Fill out with the products.

    Raises:
        FormatError: there is no such row, or it is damaged, of another size or scaled itself.
    """
    row, rest = take_number(data, MAX_ROWS)
    if len(rest) != FACTOR_BYTES or out.size % FACTOR_BYTES or decoder.row is None:
        raise FormatError("scaled: the factor is damaged")
    codec, stored = decoder.row(row)
    if codec == ID:
        raise FormatError(f"scaled: row {row} is scaled itself")
    other = np.empty(out.size, np.uint8)
    inner = replace(decoder, row=None, depth=decoder.depth + 1)
    inner.by_id(codec).decode(stored, other, inner)
    factor = np.frombuffer(rest, "<f4").astype(np.float32)[0]
    product = _times(other.view("<f4").astype(np.float32, copy=False), factor)
    out[:] = product.astype("<f4", copy=False).view(np.uint8)
