"""statistics.bin of a .qtm: calibration statistics <-> bytes, as docs/qtm-format.md says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from qtool.errors import FormatError
from qtool.model import BatchNormStatistics, GramStatistics, TensorStatistics

MAX_BINS = 1 << 22
MAX_ORDER = 1 << 24  # of a Gram
MAX_EXPONENT = 2048  # beyond that of any float64
MAX_FIRST = 1 << 40  # index of a bin
MAX_NAME_BYTES = 1 << 16
UInt64 = npt.NDArray[np.uint64]

Tables = tuple[
    Mapping[str, TensorStatistics], Mapping[str, GramStatistics], Mapping[str, BatchNormStatistics]
]


def dumps(
    tensors: Mapping[str, TensorStatistics],
    grams: Mapping[str, GramStatistics],
    batch_norm: Mapping[str, BatchNormStatistics],
) -> list[bytes | memoryview]:
    """Return the content of statistics.bin in pieces; the tables are sorted by name."""
    writer = _Writer()
    writer.numbers(len(tensors), len(grams), len(batch_norm))
    for name in sorted(tensors):
        _write_tensor(writer, name, tensors[name])
    for name in sorted(grams):
        _write_gram(writer, name, grams[name])
    for name in sorted(batch_norm):
        writer.text(name)
        writer.numbers(batch_norm[name].mean.size)
        writer.array(batch_norm[name].mean.astype("<f4", copy=False))
        writer.array(batch_norm[name].std.astype("<f4", copy=False))
    return writer.pieces


def loads(data: memoryview, where: str) -> Tables:
    """Return the tables that dumps made data from.

    Raises:
        FormatError: data is damaged; where says what it is part of.
    """
    reader = _Reader(data, where)
    n_tensors, n_grams, n_batch_norm = (int(n) for n in reader.numbers(3))
    tensors = {reader.name(): _read_tensor(reader) for _ in reader.times(n_tensors)}
    grams = {reader.name(): _read_gram(reader) for _ in reader.times(n_grams)}
    batch_norm = {reader.name(): _read_batch_norm(reader) for _ in reader.times(n_batch_norm)}
    if reader.position != len(data):
        raise reader.error(f"has {len(data) - reader.position} bytes too many")
    if (len(tensors), len(grams), len(batch_norm)) != (n_tensors, n_grams, n_batch_norm):
        raise reader.error("names a tensor twice")
    return tensors, grams, batch_norm


def _write_tensor(writer: _Writer, name: str, table: TensorStatistics) -> None:
    filled = np.flatnonzero(table.counts)
    gaps = np.diff(filled, prepend=-1) - 1
    writer.text(name)
    writer.array(np.array([table.minimum, table.maximum], "<f4"))
    signed = (_zigzag(table.exponent), _zigzag(table.first))
    writer.numbers(table.count, table.n_zeros, *signed, len(filled))
    writer.varints(gaps.astype(np.uint64))
    writer.varints(table.counts[filled].astype(np.uint64))


def _read_tensor(reader: _Reader) -> TensorStatistics:
    low, high = (float(x) for x in reader.array("<f4", 2))
    count, n_zeros, exponent, first, n_filled = (int(n) for n in reader.numbers(5))
    gaps, filled = reader.numbers(n_filled), reader.numbers(n_filled)
    if not (low == low and high == high and exponent <= 2 * MAX_EXPONENT and first <= MAX_FIRST):
        raise reader.error("has an absurd histogram")
    if n_filled and int(gaps.max()) > MAX_BINS:
        raise reader.error("has an absurd histogram")
    positions = np.cumsum(gaps.astype(np.int64) + 1) - 1
    n_bins = int(positions[-1]) + 1 if n_filled else 0
    if n_bins > MAX_BINS or max(count, n_zeros) >= 1 << 63 or (n_filled and not filled.all()):
        raise reader.error("has an absurd histogram")
    if sum(map(int, filled)) != count or n_zeros > count:
        raise reader.error("has a histogram whose counts do not add up")
    counts = np.zeros(n_bins, np.int64)
    counts[positions] = filled.astype(np.int64)
    return TensorStatistics(low, high, count, n_zeros, _signed(exponent), _signed(first), counts)


def _write_gram(writer: _Writer, name: str, gram: GramStatistics) -> None:
    writer.text(name)
    writer.numbers(gram.count, gram.groups, gram.size, _zigzag(gram.exponent))
    writer.align(8)
    writer.array(gram.values.astype("<u8", copy=False))


def _read_gram(reader: _Reader) -> GramStatistics:
    count, groups, size, exponent = (int(n) for n in reader.numbers(4))
    if not (groups and 0 < size <= MAX_ORDER and exponent <= 2 * MAX_EXPONENT):
        raise reader.error("has an absurd Gram")
    reader.align(8)
    pairs = size * (size + 1) // 2
    values = reader.array("<u8", groups * pairs * 2).reshape(groups, pairs, 2)
    return GramStatistics(count, groups, size, _signed(exponent), values)


def _read_batch_norm(reader: _Reader) -> BatchNormStatistics:
    (channels,) = (int(n) for n in reader.numbers(1))
    return BatchNormStatistics(reader.array("<f4", channels), reader.array("<f4", channels))


def _zigzag(value: int) -> int:
    return 2 * value if value >= 0 else -2 * value - 1


def _signed(value: int) -> int:
    return value // 2 if value % 2 == 0 else -(value // 2) - 1


class _Writer:
    """Collects the pieces and knows the position."""

    def __init__(self) -> None:
        self.pieces: list[bytes | memoryview] = []
        self._position = 0

    def array(self, values: npt.NDArray[np.generic]) -> None:
        """Append the values as they are in memory."""
        self._append(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data)

    def text(self, text: str) -> None:
        """Append the length of the UTF-8 bytes, and the bytes."""
        data = text.encode()
        self.numbers(len(data))
        self._append(data)

    def numbers(self, *numbers: int) -> None:
        """Append some numbers as varints."""
        self.varints(np.array(numbers, np.uint64))

    def varints(self, values: UInt64) -> None:
        """Append values as LEB128: 7 bits a byte, low first, all but the last with the high bit."""
        shifts = np.arange(0, 70, 7, dtype=np.uint64)
        groups = values[:, None] >> np.minimum(shifts, np.uint64(63))
        groups[:, shifts > 63] = 0
        wanted = groups > 0
        wanted[:, 0] = True
        digits = (groups & np.uint64(127)).astype(np.uint8)
        digits[:, :-1] |= wanted[:, 1:].astype(np.uint8) << np.uint8(7)
        self.array(digits[wanted])

    def align(self, alignment: int) -> None:
        """Append zeros up to a multiple of alignment."""
        self._append(bytes(-self._position % alignment))

    def _append(self, piece: bytes | memoryview) -> None:
        self.pieces.append(piece)
        self._position += len(piece)


class _Reader:
    """Reads from a position, every length checked before anything is taken."""

    def __init__(self, data: memoryview, where: str) -> None:
        self._data = data
        self._where = where
        self.position = 0

    def error(self, problem: str) -> FormatError:
        """Return the error that says what is wrong and where."""
        return FormatError(f"{self._where} {problem} near byte {self.position}; get the file again")

    def times(self, count: int) -> range:
        """Return range(count), where each turn needs a byte at least."""
        self._need(count)
        return range(count)

    def name(self) -> str:
        """Return a text."""
        (length,) = (int(n) for n in self.numbers(1))
        if length > MAX_NAME_BYTES:
            raise self.error(f"has a name of {length} bytes")
        data = bytes(self._take(length))
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise self.error("has a name that is not UTF-8") from error

    def array(self, dtype: str, count: int) -> npt.NDArray[Any]:
        """Return an array of count elements."""
        size = np.dtype(dtype).itemsize
        return np.frombuffer(self._take(count * size), dtype)

    def align(self, alignment: int) -> None:
        """Skip zeros up to a multiple of alignment."""
        if any(self._take(-self.position % alignment)):
            raise self.error("is damaged")

    def numbers(self, count: int) -> UInt64:
        """Return count varints, each of the shortest form and below 2**64."""
        self._need(count)
        window = np.frombuffer(self._data, np.uint8)[self.position : self.position + 10 * count]
        ends = np.flatnonzero(window < 128)[:count]
        if len(ends) < count:
            raise self.error("ends in the middle of a number")
        starts = np.concatenate([[0], ends[:-1] + 1]).astype(np.int64) if count else ends
        lengths = ends - starts + 1
        if count and int(lengths.max()) > 10:
            raise self.error("has a number that is too long")
        used = window[: int(ends[-1]) + 1] if count else window[:0]
        within = np.arange(len(used)) - np.repeat(starts, lengths)
        digits = (used & 127).astype(np.uint64) << (7 * within).astype(np.uint64)
        if np.any((within == 9) & (used > 1)) or np.any((within > 0) & (used == 0)):
            raise self.error("has a number that is too long")
        self.position += len(used)
        return np.add.reduceat(digits, starts) if count else digits

    def _take(self, length: int) -> memoryview:
        self._need(length)
        self.position += length
        return self._data[self.position - length : self.position]

    def _need(self, length: int) -> None:
        if length > len(self._data) - self.position:
            raise self.error(f"ends where {length} more bytes are needed")
