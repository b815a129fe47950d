"""lz: LZ77 with adaptive binary coding and a dictionary of what ONNX graphs say. For graphs.

Layout: a byte, 1 if strings of the dictionary are copied, else 0; then the code, as
qtool/native/codecs/lz/lz.h says.
"""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np

from qtool import _native
from qtool.codecs.streams import Array, Bytes, Decoder, Encoder, as_bytes, bytes_of
from qtool.errors import FormatError

MAX_SYMBOLS = 1 << 28
MAX_ENCODED = 1 << 26  # the search for the cheapest code takes some 2 us for each
NONE = np.zeros(0, np.uint8)


@functools.cache
def dictionary() -> Bytes:
    """Return what is copied from: frozen, as each of its bytes is part of the format."""
    return as_bytes((Path(__file__).parent / "onnx.dictionary").read_bytes())


def encode(values: Array, encoder: Encoder) -> bytes | None:
    """Return the code of the bytes of values."""
    return encode_text(bytes_of(values), words=False)


def encode_text(symbols: Bytes, *, words: bool = True) -> bytes | None:
    """Return the code of bytes in which the same strings come again and again."""
    if symbols.size == 0:
        return b""
    if symbols.size > MAX_ENCODED:
        return None
    code: bytes = _native.lz_encode(symbols, dictionary() if words else NONE)
    return bytes([words]) + code


def decode(data: memoryview, out: Bytes, decoder: Decoder) -> None:
    """Fill out with the symbols.

    Raises:
        FormatError: data is not exactly so many symbols.
    """
    if out.size == 0 and len(data) == 0:
        return
    known = 0 < out.size <= MAX_SYMBOLS and len(data) > 0 and data[0] <= 1
    words = dictionary() if known and data[0] else NONE
    if not known or not _native.lz_decode(as_bytes(data[1:]), words, out):
        raise FormatError(f"lz: {len(data)} bytes are no {out.size} symbols")
