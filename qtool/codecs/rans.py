"""rans: symbols as one number each in 2, 8 or 32 lanes; close to the entropy, decoded with SIMD.

Layout: a number; 0, then the frequency table with its length in front; or 1 + the index of a
shared table. Then the states of the lanes and the words, as qtool/native/codecs/rans/rans.h says.
"""

from __future__ import annotations

from typing import NamedTuple

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

SHARED_SYMBOLS = 1 << 14  # streams of more have tables of their own
MAX_TABLES = 256
STATE_BYTES = {2: 5, 8: 17, 32: 65}  # of so many lanes, about: half of a state holds symbols


def encode(values: Array, encoder: Encoder) -> bytes:
    """Return table, states and words of the bytes of values."""
    symbols = bytes_of(values)
    if symbols.size == 0:
        return b""
    return encode_as(symbols, plan(_native.count_bytes(symbols), symbols.size, encoder))


def encode_as(symbols: Bytes, planned: Plan) -> bytes:
    """Return the bytes of symbols under the table that was planned for them."""
    encoded: bytes = planned.head + _native.rans_encode(symbols, as_bytes(planned.table))
    return encoded


class Plan(NamedTuple):
    """A table, what the bytes begin with, and how many they are, about."""

    table: bytes
    head: bytes
    size: int


def plan(counts: Array, n: int, encoder: Encoder) -> Plan:
    """Return the table that is best for n symbols of these counts."""
    own = _native.rans_table(counts)
    head = number(0) + sized(own)
    states = STATE_BYTES[_native.rans_lanes(n)]
    best = Plan(own, head, _native.rans_cost(counts, as_bytes(own)) + len(head) + states)
    if n > SHARED_SYMBOLS or not encoder.tables:
        return best
    costs = _native.rans_costs(counts, list(encoder.tables))
    known = [(cost, index) for index, cost in enumerate(costs) if cost is not None]
    if known and min(known)[0] + 1 + states < best.size:
        cost, index = min(known)
        return Plan(encoder.tables[index], number(index + 1), cost + 1 + states)
    return best


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
