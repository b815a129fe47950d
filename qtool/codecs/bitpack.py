"""bitpack: symbols of few kinds, in as many bits as their number needs.

Layout: the number of kinds less one (1 byte), the kinds in ascending order, then for each value
the index of its kind in ceil(log2(kinds)) bits, lowest bits first; the last byte ends in zeros.
"""

from __future__ import annotations

import numpy as np

from qtool import _native
from qtool.codecs.streams import Array, Bytes, Decoder, Encoder, as_bytes, bytes_of
from qtool.errors import FormatError

MAX_KINDS = 128  # more would need 8 bits


def encode(values: Array, encoder: Encoder) -> bytes | None:
    """Return the packed bytes of values; None where there are more than MAX_KINDS of them."""
    symbols = bytes_of(values)
    if symbols.size == 0:
        return b""
    kinds = np.flatnonzero(_native.count_bytes(symbols)).astype(np.uint8)
    if kinds.size > MAX_KINDS:
        return None
    index = np.zeros(256, np.uint8)
    index[kinds] = np.arange(kinds.size)
    bits = width(kinds.size)
    packed = _native.pack_bits(index[symbols], bits) if bits else b""
    return bytes([kinds.size - 1]) + kinds.tobytes() + packed


def decode(data: memoryview, out: Bytes, decoder: Decoder) -> None:
    """Fill out with the symbols.

    Raises:
        FormatError: data has not the length that out needs, or has indices of no kind.
    """
    if out.size == 0 and len(data) == 0:
        return
    if len(data) == 0 or data[0] >= MAX_KINDS or len(data) < data[0] + 2:
        raise FormatError("bitpack: the kinds are missing")
    n_kinds = data[0] + 1
    kinds, packed = as_bytes(data[1 : 1 + n_kinds]), as_bytes(data[1 + n_kinds :])
    bits = width(n_kinds)
    if packed.size != (out.size * bits + 7) // 8:
        raise FormatError(f"bitpack: {packed.size} bytes cannot hold {out.size} {bits}-bit values")
    if bits == 0:
        out[:] = kinds[0]
        return
    if not _native.unpack_bits(packed, bits, out) or not _native.look_up(out, 1, kinds, out):
        raise FormatError("bitpack: indices are of no kind")


def width(n_kinds: int) -> int:
    """Return the bits of an index."""
    return (n_kinds - 1).bit_length()


def size(counts: Array, n: int) -> int:
    """Return the bytes that encode would return for n symbols of these counts."""
    n_kinds = int(np.count_nonzero(counts))
    if n_kinds > MAX_KINDS:
        return 2 * n  # never the smallest
    return 1 + n_kinds + (n * width(n_kinds) + 7) // 8
