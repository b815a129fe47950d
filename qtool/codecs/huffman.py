"""huffman: canonical codes of at most 12 bits, in 4 streams that are decoded side by side."""

from __future__ import annotations

from qtool import _native
from qtool.codecs.streams import Array, Bytes, Decoder, Encoder, as_bytes, bytes_of
from qtool.errors import FormatError


def encode(values: Array, encoder: Encoder) -> bytes:
    """Return code lengths and codes of the bytes of values."""
    symbols = bytes_of(values)
    if symbols.size == 0:
        return b""
    lengths, _ = _native.huffman_plan(_native.count_bytes(symbols))
    encoded: bytes = _native.huffman_encode(symbols, as_bytes(lengths))
    return encoded


def decode(data: memoryview, out: Bytes, decoder: Decoder) -> None:
    """Fill out with the symbols.

    Raises:
        FormatError: the code is impossible, or data is not exactly so many symbols.
    """
    if out.size == 0 and len(data) == 0:
        return
    if out.size == 0 or not _native.huffman_decode(as_bytes(data), out):
        raise FormatError(f"huffman: {len(data)} bytes are no {out.size} symbols")


def size(counts: Array, n: int) -> int:
    """Return about the bytes that encode would return for n symbols of these counts."""
    return int(_native.huffman_plan(counts)[1])
