"""codebook: at most 256 different values, and for each element which of them it is.

Layout: the bytes of a value (1 byte), the number of values less one (1 byte), the stream of the
values in ascending order (its length in front), the stream of the indices (a byte each). Values
are compared by their bits, so every NaN and -0.0 survives.
"""

from __future__ import annotations

import numpy as np

from qtool import _native
from qtool.codecs.streams import (
    Array,
    Bytes,
    Decoder,
    Encoder,
    bytes_of,
    item_bytes,
    sized,
    take_sized,
)
from qtool.errors import FormatError

MAX_VALUES = 256
HEAD_BYTES = 2


def encode(values: Array, encoder: Encoder) -> bytes | None:
    """Return values and indices; None where there are more than MAX_VALUES, or none."""
    width, data = item_bytes(values.dtype), bytes_of(values)
    indices = np.empty(data.size // width, np.uint8)
    floats = values.dtype.kind not in "iub"
    found = _native.find_codebook(data, width, floats, indices)
    if not found:
        return None
    book = np.frombuffer(found, f"<u{width}").view(_sortable(width, values))
    zero = int(np.argmin(_magnitudes(book))) if book.size else 0
    head = bytes([width, book.size - 1])
    return (
        head
        + sized(encoder.stream(book))
        + encoder.stream(indices, layout=encoder.layout, zero=zero)
    )


def _sortable(width: int, values: Array) -> np.dtype[np.generic]:
    """Return the dtype that says how the values are ordered."""
    fits = values.dtype.kind in "iuf" and values.dtype.itemsize == width
    return values.dtype.newbyteorder("<") if fits else np.dtype(f"<u{width}")


def _magnitudes(book: Array) -> Array:
    """Return the magnitudes, NaN last."""
    if book.dtype.kind == "u":
        return book
    with np.errstate(all="ignore"):
        return np.nan_to_num(np.abs(book.astype(np.float64)), nan=np.inf)


def decode(data: memoryview, out: Bytes, decoder: Decoder) -> None:
    """Fill out with the values.

    Raises:
        FormatError: the streams are damaged, or an index is of no value.
    """
    if len(data) < HEAD_BYTES or data[0] not in (1, 2, 4, 8) or out.size % data[0]:
        raise FormatError("codebook: the head is damaged")
    width, n_values = data[0], data[1] + 1
    book, indices = np.empty(n_values * width, np.uint8), np.empty(out.size // width, np.uint8)
    stream, rest = take_sized(data[HEAD_BYTES:])
    decoder.stream(stream, book)
    decoder.stream(rest, indices)
    if not _native.look_up(indices, width, book, out):
        raise FormatError(f"codebook: an index is of no value; there are {n_values}")


def chain(data: memoryview) -> list[memoryview]:
    """Return the streams inside."""
    stream, rest = take_sized(data[HEAD_BYTES:])
    return [stream, rest]
