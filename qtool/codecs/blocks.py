"""blocks: a large array in parts, each a stream, so that decoding needs memory for one part only.

Layout: the bytes of a part as a number, then the streams, all but the last with their length in
front.
"""

from __future__ import annotations

from qtool.codecs.streams import (
    Array,
    Bytes,
    Decoder,
    Encoder,
    number,
    sized,
    take_number,
    take_sized,
)
from qtool.errors import FormatError

BLOCK_VALUES = 1 << 20
BLOCK_BYTES = 1 << 22
UNSPLIT_BYTES = 1 << 23  # of elements of one byte, whose codecs need no memory
MIN_BYTES = 1 << 12  # of a part; smaller ones only cost time


def encode(values: Array, encoder: Encoder) -> bytes | None:
    """Return the streams of parts of an array; None for one part or less."""
    flat = values.reshape(-1)
    block = min(BLOCK_VALUES, BLOCK_BYTES // flat.dtype.itemsize)
    if flat.size <= (UNSPLIT_BYTES if flat.dtype.itemsize == 1 else block):
        return None
    parts = [flat[at : at + block] for at in range(0, flat.size, block)]
    streams = [encoder.choose(part, encoder) for part in parts]
    size = number(block * flat.dtype.itemsize)
    return size + b"".join([*map(sized, streams[:-1]), streams[-1]])


def decode(data: memoryview, out: Bytes, decoder: Decoder) -> None:
    """Fill out, part by part.

    Raises:
        FormatError: a part is damaged, or too small or too large.
    """
    size, rest = take_number(data, BLOCK_BYTES)
    if size < MIN_BYTES or out.size <= size:
        raise FormatError(f"blocks: parts of {size} bytes cannot be of {out.size}")
    for at in range(0, out.size, size):
        stream, rest = take_sized(rest) if at + size < out.size else (rest, rest[:0])
        decoder.stream(stream, out[at : at + size])


def chain(data: memoryview) -> list[memoryview]:
    """Return the first stream inside: the others are alike."""
    _, rest = take_number(data, BLOCK_BYTES)
    return [take_sized(rest)[0]]
