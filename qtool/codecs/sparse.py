"""sparse: where the elements are that are not zero, and these.

Layout: the bytes of an element (1 byte); how the places are told (1 byte): 0 for a bit for each
element, lowest bit first, or the highest gap G, 15, 31 or 255: the zeros in front of each
element, a byte each, G for so many zeros and no element. Then three numbers and streams: with
gaps, how many there are; how many elements are not zero; the stream of the mask or the gaps, its
length in front; the stream of the elements. Zero is all bits 0: -0.0 is none.
"""

from __future__ import annotations

import numpy as np

from qtool import _native
from qtool.codecs.streams import (
    Array,
    Bytes,
    Decoder,
    Encoder,
    as_bytes,
    bytes_of,
    item_bytes,
    number,
    sized,
    take_number,
    take_sized,
)
from qtool.errors import FormatError

MASK = 0
GAPS = (15, 31, 255)  # 4, 5 and 8 bits
HEAD_BYTES = 2


def encode(values: Array, encoder: Encoder) -> bytes:
    """Return mask or gaps, whichever is smaller, and the elements that are not zero."""
    width, data = item_bytes(values.dtype), bytes_of(values)
    nonzero = np.frombuffer(_native.take_nonzero(data, width), f"<u{width}")
    if values.dtype.itemsize == width:
        nonzero = nonzero.view(values.dtype.newbyteorder("<"))
    most, places = min(_places(data, width), key=lambda choice: (_bits(choice[1]), choice[0]))
    head = bytes([width, most]) + (number(places.size) if most else b"") + number(nonzero.size)
    return head + sized(encoder.stream(places)) + encoder.stream(nonzero)


def _places(data: Bytes, width: int) -> list[tuple[int, Bytes]]:
    gaps = [(most, as_bytes(_native.write_gaps(data, width, most))) for most in GAPS]
    return [(MASK, as_bytes(_native.write_mask(data, width))), *gaps]


def _bits(symbols: Bytes) -> int:
    """Return the order-0 entropy of all symbols in units of 2**-16 bits, with 5 for each kind."""
    kinds = int(np.count_nonzero(_native.count_bytes(symbols)))
    return int(_native.entropy(symbols)) + kinds * (5 << 16)


def decode(data: memoryview, out: Bytes, decoder: Decoder) -> None:
    """Fill out with the elements.

    Raises:
        FormatError: the streams are damaged, or say more or fewer elements.
    """
    if len(data) < HEAD_BYTES or data[0] not in (1, 2, 4, 8) or data[1] not in (MASK, *GAPS):
        raise FormatError("sparse: the head is damaged")
    width, most, rest = data[0], data[1], data[HEAD_BYTES:]
    if out.size % width:
        raise FormatError(f"sparse: {out.size} bytes are no elements of {width}")
    n = out.size // width
    n_places = (n + 7) // 8
    if most:
        n_places, rest = take_number(rest, n)
    n_nonzero, rest = take_number(rest, n)
    places, nonzero = np.empty(n_places, np.uint8), np.empty(n_nonzero * width, np.uint8)
    stream, rest = take_sized(rest)
    decoder.stream(stream, places)
    decoder.stream(rest, nonzero)
    if not _native.spread(places, most, nonzero, width, out):
        raise FormatError(f"sparse: the places are not those of {n_nonzero} elements")


def chain(data: memoryview) -> list[memoryview]:
    """Return the streams inside."""
    rest = data[HEAD_BYTES:]
    for _ in range(2 if data[1] else 1):
        _, rest = take_number(rest, 1 << 50)
    stream, rest = take_sized(rest)
    return [stream, rest]
