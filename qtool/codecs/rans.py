"""rans: symbols as one number each in 2, 8 or 32 lanes; close to the entropy, decoded with SIMD.

Layout: a number; 0, then the frequency table with its length in front; or 1 + the index of a
shared table. Then the states of the lanes and the words, as qtool/native/codecs/rans/rans.h says.
"""

from __future__ import annotations

from qtool import _native
from qtool.codecs.streams import (
    Array,
    Bytes,
    Decoder,
    Encoder,
    as_bytes,
    bytes_of,
    number,
    sized,
    take_number,
    take_sized,
)
from qtool.errors import FormatError

SHARED_SYMBOLS = 1 << 15  # streams of more have tables of their own
MAX_TABLES = 256


def encode(values: Array, encoder: Encoder) -> bytes:
    """Return table, states and words of the bytes of values."""
    symbols = bytes_of(values)
    if symbols.size == 0:
        return b""
    table, head = plan(_native.count_bytes(symbols), symbols.size, encoder)
    encoded: bytes = head + _native.rans_encode(symbols, as_bytes(table))
    return encoded


def plan(counts: Array, n: int, encoder: Encoder) -> tuple[bytes, bytes]:
    """Return the table that is best for these counts, and what begins the bytes."""
    own = _native.rans_table(counts)
    best, head = own, number(0) + sized(own)
    if n > SHARED_SYMBOLS:
        return best, head
    least = _native.rans_cost(counts, as_bytes(own)) + len(head)
    for index, table in enumerate(encoder.tables):
        cost = _native.rans_cost(counts, as_bytes(table))
        if cost is not None and cost + 1 < least:
            best, head, least = table, number(index + 1), cost + 1
    return best, head


def decode(data: memoryview, out: Bytes, decoder: Decoder) -> None:
    """Fill out with the symbols.

    Raises:
        FormatError: the table is impossible or not there, or data is not exactly so many symbols.
    """
    if out.size == 0 and len(data) == 0:
        return
    shared, rest = take_number(data, MAX_TABLES)
    if shared > len(decoder.tables):
        raise FormatError(f"rans: there is no shared table {shared - 1}")
    if shared:
        table = memoryview(decoder.tables[shared - 1])
    else:
        table, rest = take_sized(rest)
    done = out.size and _native.rans_decode(as_bytes(rest), as_bytes(table), out, decoder.isa)
    if not done:
        raise FormatError(f"rans: {len(data)} bytes are no {out.size} symbols")


def size(counts: Array, n: int, encoder: Encoder) -> int:
    """Return about the bytes that encode would return for n symbols of these counts."""
    table, head = plan(counts, n, encoder)
    return len(head) + int(_native.rans_cost(counts, as_bytes(table))) + STATE_BYTES[lanes(n)]


def lanes(n: int) -> int:
    """Return the lanes of a stream of n symbols."""
    return int(_native.rans_lanes(n))


STATE_BYTES = {2: 5, 8: 17, 32: 65}  # about: of the 31 bits of a state, half hold symbols
