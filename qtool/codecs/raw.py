"""raw: the values as they are, little-endian. Decoding copies nothing."""

from __future__ import annotations

from qtool.codecs.streams import Array, Bytes, Decoder, Encoder, as_bytes, bytes_of
from qtool.errors import FormatError


def encode(values: Array, encoder: Encoder) -> bytes:
    """Return the little-endian bytes of values."""
    return bytes_of(values).tobytes()


def decode(data: memoryview, out: Bytes, decoder: Decoder) -> None:
    """Fill out with data.

    Raises:
        FormatError: data has not the length of out.
    """
    if len(data) != out.size:
        raise FormatError(f"raw: {len(data)} bytes, but {out.size} are needed")
    out[:] = as_bytes(data)
