"""The head of a packed .qtm: what is known about the model, the table of its tensors, its graph.

docs/qtm-format.md has it byte by byte: section 6 packed.bin, of version 3, whose rows follow the
head; section 8 graph.bin of version 2.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from qtool import codecs
from qtool.codecs import arith, lz
from qtool.codecs.streams import as_bytes, number, take_number
from qtool.errors import FormatError
from qtool.formats import tensors

ALIGNMENT = 64  # of raw rows that are worth mapping
MAPPED_BYTES = 4096
MAX_ROWS = 1 << 20
MAX_TABLE_BYTES = 512  # of a shared frequency table
MAX_TEXT_BYTES = 1 << 23  # of graphs under arith; it takes about a second for each MiB
MAX_GRAPH_BYTES = 1 << 28
RAW, ARITH, LZ = (codecs.CODECS[name].id for name in ("raw", "arith", "lz"))
CRC = struct.Struct("<I")
MAX_HEAD_BYTES = 1 << 30


@dataclass
class Row:
    """A row of the table: the codec, and where its bytes are in tensors.bin."""

    codec: int
    length: int
    crc: int
    offset: int = 0

    @property
    def is_mapped(self) -> bool:
        """Whether it is worth mapping, and therefore aligned."""
        return self.codec == RAW and self.length >= MAPPED_BYTES


@dataclass
class Table:
    """What packed tensors have in common: their rows, and the frequency tables they share."""

    rows: list[Row] = field(default_factory=list)
    shared: tuple[bytes, ...] = ()
    wanted: Sequence[int] = ()  # of each tensor that is stored apart, in order, its row

    def place(self, start: int = 0) -> int:
        """Set the offsets of the rows, the first at start or after it; return where they end."""
        end = start
        for row in self.rows:
            if row.is_mapped:
                end += -end % ALIGNMENT
            row.offset = end
            end += row.length
        return end

    def dumps(self) -> bytes:
        """Return all but what has no pattern: that is `noise`."""
        return b"".join([
            number(len(self.shared)), *(number(len(table)) for table in self.shared),
            number(len(self.rows)), bytes(row.codec for row in self.rows),
            *(number(row.length) for row in self.rows),
            number(len(self.wanted)), *map(number, self._steps()),
        ])  # fmt: skip

    def noise(self) -> bytes:
        """Return the shared tables and the checksums."""
        return b"".join(
            [*self.shared, struct.pack(f"<{len(self.rows)}I", *(r.crc for r in self.rows))]
        )

    def _steps(self) -> list[int]:
        """Return the wanted rows: 0 for the one after all before, else 1 + the row."""
        steps, after = [], 0
        for row in self.wanted:
            steps.append(0 if row == after else row + 1)
            after = max(after, row + 1)
        return steps


@dataclass(frozen=True)
class Head:
    """What packed.bin begins with."""

    table: Table
    details: bytes | memoryview  # JSON
    graph: bytes | memoryview  # ONNX
    manifest_crc: int
    statistics_crc: int = 0  # of no statistics.bin
    length: int = 0  # once it is read


def dumps(head: Head, *, max: bool = False) -> bytes:
    """Return the head of packed.bin; with max as small as it gets."""
    noise = head.table.noise()
    content = b"".join([number(len(head.details)), head.details, head.table.dumps(), head.graph])
    coded = {RAW: content}
    if (text := lz.encode_text(as_bytes(content))) is not None:
        coded[LZ] = text
    if max and len(content) <= MAX_TEXT_BYTES:
        coded[ARITH] = arith.encode_text(content)
    codec = min(coded, key=lambda c: (len(coded[c]), c))
    data = b"".join([
        bytes([codec]), *map(number, (len(content), len(noise), len(coded[codec]))),
        CRC.pack(head.manifest_crc), CRC.pack(head.statistics_crc), noise, coded[codec],
    ])  # fmt: skip
    return data + CRC.pack(zlib.crc32(data))


def loads(data: memoryview, where: str) -> Head:
    """Return the head that packed.bin begins with.

    Raises:
        FormatError: data is damaged; where names file and member.
    """
    try:
        if len(data) == 0 or data[0] not in (RAW, ARITH, LZ):
            raise FormatError(f"the codec of its head is {data[0] if len(data) else 'missing'}")
        size, rest = take_number(data[1:], _most(data[0]))
        n_noise, rest = take_number(rest, MAX_HEAD_BYTES)
        n_coded, rest = take_number(rest, MAX_HEAD_BYTES)
        end = len(data) - len(rest) + 2 * CRC.size + n_noise + n_coded
        if end + CRC.size > len(data):
            raise FormatError("its head is cut off")
        if CRC.unpack_from(data, end)[0] != zlib.crc32(data[:end]):
            raise FormatError("its head does not fit its checksum; get the file again")
        crcs, rest = rest[: 2 * CRC.size], rest[2 * CRC.size :]
        content = _decoded(data[0], rest[n_noise : n_noise + n_coded], size)
        n_details, content = take_number(content, len(content))
        details, content = content[:n_details], content[n_details:]
        table, graph = _table(content, rest[:n_noise])
        of_manifest, of_statistics = struct.unpack("<2I", crcs)
        return Head(table, details, graph, of_manifest, of_statistics, end + CRC.size)
    except FormatError as error:
        raise FormatError(f"{where} is damaged: {error}") from error


def loads_2(data: memoryview, where: str) -> tuple[Table, memoryview]:
    """Return table and graph of graph.bin, which version 2 has; table.wanted is empty.

    Raises:
        FormatError: data is damaged; where names file and member.
    """
    try:
        if len(data) == 0 or data[0] not in (RAW, ARITH):
            raise FormatError(f"its codec is {data[0] if len(data) else 'missing'}")
        size, rest = take_number(data[1:], _most(data[0]))
        return _version_2(_decoded(data[0], rest, size))
    except FormatError as error:
        raise FormatError(f"{where} is damaged: {error}") from error


def _most(codec: int) -> int:
    return MAX_TEXT_BYTES if codec == ARITH else MAX_GRAPH_BYTES


def _decoded(codec: int, coded: memoryview, size: int) -> memoryview:
    links = [{"id": codec}]
    codecs.check(links, len(coded), size)
    return codecs.decode(coded, links, np.dtype(np.uint8), (size,)).data


def _table(content: memoryview, noise: memoryview) -> tuple[Table, memoryview]:
    """Return the table that content begins with, and the rest."""
    n_shared, rest = take_number(content, codecs.rans.MAX_TABLES)
    sizes, rest = _numbers(rest, n_shared, MAX_TABLE_BYTES)
    shared = []
    for size in sizes:
        shared.append(bytes(noise[:size]))
        noise = noise[size:]
    rows, rest = _rows(rest)
    if len(noise) != CRC.size * len(rows):
        raise FormatError(f"there are no {len(rows)} checksums")
    _set_checksums(rows, noise)
    n_wanted, rest = take_number(rest, MAX_ROWS)
    steps, rest = _numbers(rest, n_wanted, MAX_ROWS)
    wanted, after = [], 0
    for step in steps:
        wanted.append(step - 1 if step else after)
        after = max(after, wanted[-1] + 1)
    return Table(rows, tuple(shared), wanted), rest


def _version_2(content: memoryview) -> tuple[Table, memoryview]:
    n_shared, rest = take_number(content, codecs.rans.MAX_TABLES)
    shared = []
    for _ in range(n_shared):
        length, rest = take_number(rest, MAX_TABLE_BYTES)
        shared.append(bytes(rest[:length]))
        rest = rest[length:]
    rows, rest = _rows(rest)
    n_bytes = CRC.size * len(rows)
    if len(rest) < n_bytes:
        raise FormatError(f"the table of {len(rows)} tensors is cut off")
    _set_checksums(rows, rest[:n_bytes])
    return Table(rows, tuple(shared)), rest[n_bytes:]


def _rows(data: memoryview) -> tuple[list[Row], memoryview]:
    """Return rows without their checksums, and the rest."""
    n_rows, rest = take_number(data, MAX_ROWS)
    ids, rest = rest[:n_rows], rest[n_rows:]
    if len(ids) < n_rows:
        raise FormatError(f"the table of {n_rows} tensors is cut off")
    for codec in set(ids):
        codecs.by_id(codec)
    lengths, rest = _numbers(rest, n_rows, tensors.MAX_BYTES)
    return [Row(codec, length, 0) for codec, length in zip(ids, lengths, strict=True)], rest


def _set_checksums(rows: Sequence[Row], data: memoryview) -> None:
    for row, crc in zip(rows, struct.unpack(f"<{len(rows)}I", data), strict=True):
        row.crc = crc


def _numbers(data: memoryview, n: int, most: int) -> tuple[list[int], memoryview]:
    """Return n numbers, each at most `most`, and the rest."""
    found = []
    for _ in range(n):
        value, data = take_number(data, most)
        found.append(value)
    return found, data
