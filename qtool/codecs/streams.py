"""Streams: what codecs make of values, nested where a codec needs several.

A stream is the id of its codec (one byte) and that codec's bytes. Where several streams follow
each other, each but the last has its length in front, as LEB128.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from qtool.errors import FormatError

if TYPE_CHECKING:
    from qtool.codecs import Codec

Array = npt.NDArray[Any]
Bytes = npt.NDArray[np.uint8]

MAX_DEPTH = 6
SMALL_SYMBOLS = 2048  # for streams of so many arith is tried without a test


@dataclass(frozen=True)
class Layout:
    """How many elements back is the neighbour: of the channel before, of the filter before."""

    step: int = 1
    row: int = 1

    @classmethod
    def of(cls, shape: Sequence[int]) -> Layout:
        """Return the layout of weights, (C_out, C_in, ...) or (rows, columns)."""
        sizes = [max(n, 1) for n in shape]
        if len(sizes) < 2:
            return cls()
        return cls(int(np.prod(sizes[2:], dtype=np.int64)), int(np.prod(sizes[1:], dtype=np.int64)))


@dataclass(frozen=True)
class Encoder:
    """What codecs encode with: choose(values, encoder) returns the smallest stream of values."""

    choose: Callable[[Array, Encoder], bytes]
    codecs: Mapping[str, Codec]
    max: bool = False  # try slow codecs, too
    layout: Layout = Layout()
    zero: int = 0  # the symbol of least magnitude
    tables: tuple[bytes, ...] = ()  # shared frequency tables
    nested: bool = False  # inside of a codec: no codebooks of codebooks
    others: Mapping[int, Array] = field(
        default_factory=dict
    )  # rows that the values may be multiples of
    seen: list[Array] | None = None  # takes the counts of symbols that a shared table could serve

    def stream(self, values: Array, *, layout: Layout | None = None, zero: int = 0) -> bytes:
        """Return the smallest stream of an array."""
        inner = replace(self, layout=layout or Layout(), zero=zero, nested=True)
        return self.choose(values, inner)


@dataclass(frozen=True)
class Decoder:
    """What codecs decode with."""

    tables: Sequence[bytes] = ()
    row: Callable[[int], tuple[int, memoryview]] | None = None  # codec and bytes of a row
    depth: int = 0
    isa: str = ""  # of kernels; the fastest by default
    by_id: Callable[[int], Codec] = field(kw_only=True)

    def stream(self, data: memoryview, out: Bytes) -> None:
        """Fill out with what the stream says.

        Raises:
            FormatError: data is not exactly such a stream.
        """
        if len(data) == 0:
            raise FormatError("a stream of 0 bytes")
        if self.depth == MAX_DEPTH:
            raise FormatError("streams are nested too deeply")
        self.by_id(data[0]).decode(data[1:], out, replace(self, depth=self.depth + 1))


def bytes_of(values: Array) -> Bytes:
    """Return the little-endian bytes of an array, not copied where possible."""
    little = np.ascontiguousarray(values)
    little = little.astype(little.dtype.newbyteorder("<"), copy=False)
    return little.reshape(-1).view(np.uint8)


def as_bytes(data: memoryview | bytes) -> Bytes:
    """Return bytes as an array, not copied."""
    return np.frombuffer(data, np.uint8)


def number(value: int) -> bytes:
    """Return a whole number as LEB128."""
    out = bytearray()
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def take_number(data: memoryview, most: int) -> tuple[int, memoryview]:
    """Return the LEB128 number that data begins with, and the rest.

    Raises:
        FormatError: there is none, it is above most, or not in its shortest form.
    """
    value = 0
    for index, byte in enumerate(data[:9]):
        value |= (byte & 127) << (7 * index)
        if byte < 128:
            if byte == 0 and index > 0:
                break
            if value > most:
                raise FormatError(f"a number is {value}; at most {most} is possible")
            return value, data[index + 1 :]
    raise FormatError("a number is damaged")


def sized(stream: bytes) -> bytes:
    """Return a stream with its length in front."""
    return number(len(stream)) + stream


def take_sized(data: memoryview) -> tuple[memoryview, memoryview]:
    """Return the stream that data begins with, its length in front, and the rest."""
    length, rest = take_number(data, len(data))
    if length > len(rest):
        raise FormatError(f"a stream of {length} bytes is in {len(rest)}")
    return rest[:length], rest[length:]


def item_bytes(dtype: np.dtype[Any]) -> int:
    """Return the bytes of the units that codecs see: 1, 2, 4 or 8."""
    return dtype.itemsize if dtype.itemsize in (1, 2, 4, 8) else 8 if dtype.itemsize == 16 else 1
