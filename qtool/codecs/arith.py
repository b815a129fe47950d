"""arith: adaptive binary arithmetic coding with mixed contexts. Slow, small, and has no tables.

Layout: as qtool/native/codecs/mix/mix.h says.
"""

from __future__ import annotations

from qtool import _native
from qtool.codecs.streams import Array, Bytes, Decoder, Encoder, as_bytes, bytes_of
from qtool.errors import FormatError

MAX_SYMBOLS = 1 << 26


def encode(values: Array, encoder: Encoder) -> bytes | None:
    """Return the code of the bytes of values, in the contexts of encoder.layout."""
    symbols = bytes_of(values)
    if symbols.size == 0:
        return b""
    if symbols.size > MAX_SYMBOLS:
        return None
    layout = encoder.layout
    encoded: bytes = _native.mix_encode(symbols, False, encoder.zero, layout.step, layout.row)
    return encoded


def encode_text(data: bytes) -> bytes:
    """Return the code of bytes in which the same strings come again and again."""
    encoded: bytes = _native.mix_encode(as_bytes(data), True)
    return encoded


def decode(data: memoryview, out: Bytes, decoder: Decoder) -> None:
    """Fill out with the symbols.

    Raises:
        FormatError: data is not exactly so many symbols.
    """
    if out.size == 0 and len(data) == 0:
        return
    if not 0 < out.size <= MAX_SYMBOLS or not _native.mix_decode(as_bytes(data), out):
        raise FormatError(f"arith: {len(data)} bytes are no {out.size} symbols")
