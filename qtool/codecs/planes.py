"""planes: each byte of the elements a stream of its own: a float's exponents are alike.

Layout: the bytes of an element (1 byte), the transform of the elements (1 byte), then a stream
for each byte, the lowest first, all but the last with their length in front.

| transform | element x becomes |
| 0 | x |
| 1 | x rotated left by one bit: a float's sign goes last |
| 2 | 2x, or -2x - 1 where x < 0 |
| 3 | the difference to the float before, in the order of floats as whole numbers |
| 4 | the difference to the whole number before, as in 2 |
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

NONE, ROTATE, ZIGZAG, FLOAT_DELTA, DELTA = range(5)
HEAD_BYTES = 2
TRIED_VALUES = 1 << 14  # so many of the first elements choose the transform


def encode(values: Array, encoder: Encoder) -> bytes:
    """Return the streams of the bytes of values, under the transform that suits them."""
    width, data = item_bytes(values.dtype), bytes_of(values)
    floats = values.dtype.kind not in "iub"
    choices = (NONE, ROTATE, FLOAT_DELTA) if floats else (NONE, ZIGZAG, DELTA)
    part = data[: TRIED_VALUES * width]
    transform = min(choices, key=lambda t: (sum(map(_native.entropy, _split(part, width, t))), t))
    planes = _split(data, width, transform)
    streams = [encoder.stream(plane) for plane in planes]
    return bytes([width, transform]) + b"".join([*map(sized, streams[:-1]), streams[-1]])


def _split(data: Bytes, width: int, transform: int) -> Bytes:
    planes = np.empty(data.size, np.uint8)
    _native.split_planes(data, width, transform, planes)
    return planes.reshape(width, -1)


def decode(data: memoryview, out: Bytes, decoder: Decoder) -> None:
    """Fill out with the elements.

    Raises:
        FormatError: the head or a stream is damaged.
    """
    if len(data) < HEAD_BYTES or data[0] not in (1, 2, 4, 8) or data[1] > DELTA:
        raise FormatError("planes: the head is damaged")
    width, transform, rest = data[0], data[1], data[HEAD_BYTES:]
    if out.size % width:
        raise FormatError(f"planes: {out.size} bytes are no elements of {width}")
    planes = np.empty((width, out.size // width), np.uint8)
    for plane in planes[:-1]:
        stream, rest = take_sized(rest)
        decoder.stream(stream, plane)
    decoder.stream(rest, planes[-1])
    _native.join_planes(planes.reshape(-1), width, transform, out)


def chain(data: memoryview) -> list[memoryview]:
    """Return the streams inside."""
    streams, rest = [], data[HEAD_BYTES:]
    for _ in range(data[0] - 1):
        stream, rest = take_sized(rest)
        streams.append(stream)
    return [*streams, rest]
