"""The packed form of a .qtm, version 2: tensors in the smallest codecs, table and graph in one.

docs/qtm-format.md, section 6, has the tables. qtm_file reads and writes the rest of the file.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from qtool import codecs
from qtool.codecs import arith
from qtool.codecs.streams import bytes_of, number, take_number
from qtool.errors import FormatError, ModelError
from qtool.formats import tensors

Progress = Callable[[Iterable[Any], str, int | None], Iterable[Any]]

INLINE_BYTES = 64  # smaller tensors stay in the graph
ALIGNMENT = 64  # of raw rows that are worth mapping
MAPPED_BYTES = 4096
MAX_ROWS = 1 << 20
MAX_TABLE_BYTES = 512  # of a shared frequency table
MAX_TEXT_BYTES = 1 << 23  # of graphs that are coded; it takes about a second for each MiB
MAX_GRAPH_BYTES = 1 << 28
RAW, ARITH = codecs.CODECS["raw"].id, codecs.CODECS["arith"].id
CRC = struct.Struct("<I")


@dataclass
class Row:
    """A row of the table: the codec, and where its bytes are in tensors.bin."""

    codec: int
    length: int
    crc: int
    offset: int = 0


@dataclass
class Table:
    """What packed tensors have in common: their rows, and the frequency tables they share."""

    rows: list[Row] = field(default_factory=list)
    shared: tuple[bytes, ...] = ()

    def place(self) -> int:
        """Set the offsets of the rows; return the size of tensors.bin."""
        end = 0
        for row in self.rows:
            if row.codec == RAW and row.length >= MAPPED_BYTES:
                end += -end % ALIGNMENT
            row.offset = end
            end += row.length
        return end

    def dumps(self) -> bytes:
        """Return the table as bytes."""
        return b"".join([
            number(len(self.shared)), *(number(len(t)) + t for t in self.shared),
            number(len(self.rows)), bytes(row.codec for row in self.rows),
            *(number(row.length) for row in self.rows), *(CRC.pack(row.crc) for row in self.rows),
        ])  # fmt: skip


@dataclass(frozen=True)
class Packed:
    """Encoded tensors and what refers to them."""

    table: Table
    data: Sequence[bytes]  # of each row
    graph: ir.Model  # its tensors are references

    def pieces(self) -> Iterator[bytes]:
        """Yield what tensors.bin holds."""
        end = 0
        for row, data in zip(self.table.rows, self.data, strict=True):
            yield bytes(row.offset - end)
            yield data
            end = row.offset + row.length


def no_progress(items: Iterable[Any], label: str, total: int | None) -> Iterable[Any]:
    """Return items."""
    return items


def pack(
    clone: ir.Model, location: str, *, max: bool, threads: int | None, progress: Progress
) -> Packed:
    """Return the tensors of clone, each in its smallest codec; takes them out of clone.

    The result is the same for any number of threads.
    """
    found: list[ir.TensorProtocol] = []
    places: dict[object, int] = {}
    wanted: list[int] = []  # of each tensor in the order of the file: its place in found

    def collect(tensor: ir.TensorProtocol) -> None:
        if tensors.is_large(tensor, INLINE_BYTES):
            place = tensor.place if isinstance(tensor, tensors.StoredTensor) else id(tensor)
            key = (place, tensor.dtype, tuple(tensor.shape.numpy()))
            if key not in places:
                places[key] = len(found)
                found.append(tensor)
            wanted.append(places[key])

    tensors.replace_tensors(clone, collect)

    def encode(tensor: ir.TensorProtocol) -> tuple[bytes, bytes, int]:
        values = values_of(tensor)
        data, links = codecs.smallest(values, max=max)
        return hashlib.sha256(bytes_of(values).data).digest(), data, links[0]["id"]

    n_threads = threads or os.cpu_count() or 1
    with ThreadPoolExecutor(n_threads) as pool:
        encoded = list(progress(pool.map(encode, found), "pack", len(found)))
    return _packed(clone, location, encoded, wanted)


def _packed(
    clone: ir.Model, location: str, encoded: list[tuple[bytes, bytes, int]], wanted: list[int]
) -> Packed:
    """Return the table of encoded tensors, those with the same values once, and references."""
    known: dict[bytes, int] = {}
    table, data = Table(), []
    for digest, stored, codec in encoded:
        if digest not in known:
            known[digest] = len(table.rows)
            table.rows.append(Row(codec, len(stored), zlib.crc32(stored)))
            data.append(stored)
    order = iter(wanted)

    def refer(tensor: ir.TensorProtocol) -> ir.TensorProtocol | None:
        if not tensors.is_large(tensor, INLINE_BYTES):
            return None
        row = known[encoded[next(order)][0]]
        return ir.ExternalTensor(
            location, row, None, tensor.dtype, shape=ir.Shape(tensor.shape.numpy()),
            name=tensor.name or "", doc_string=tensor.doc_string,
            metadata_props=dict(tensor.metadata_props),
        )  # fmt: skip

    tensors.replace_tensors(clone, refer)
    return Packed(table, data, clone)


def values_of(tensor: ir.TensorProtocol) -> np.ndarray[Any, Any]:
    """Return the values as codecs see them: packed bytes of types under 8 bits.

    Raises:
        ModelError: the tensor's data does not fit its shape.
    """
    length = tensors.n_bytes(tensor.dtype, tensor.shape.numpy())
    if tensor.dtype.bitwidth < 8:
        values = np.frombuffer(tensor.tobytes(), np.uint8)
    else:
        values = np.ascontiguousarray(tensor.numpy())
    if values.nbytes != length:
        raise ModelError(
            f"tensor {tensor.name!r} has {values.nbytes} bytes of data; its shape needs {length}"
        )
    return values


def dump_graph(table: Table, graph: bytes) -> bytes:
    """Return table and graph as graph.bin has them."""
    content = table.dumps() + graph
    if len(content) <= MAX_TEXT_BYTES:
        coded = arith.encode_text(content)
        if len(coded) < len(content):
            return bytes([ARITH]) + number(len(content)) + coded
    return bytes([RAW]) + number(len(content)) + content


def load_graph(data: memoryview, where: str) -> tuple[Table, memoryview]:
    """Return table and graph of graph.bin.

    Raises:
        FormatError: data is damaged; where names file and member.
    """
    try:
        if len(data) == 0 or data[0] not in (RAW, ARITH):
            raise FormatError(f"its codec is {data[0] if len(data) else 'missing'}")
        coded = data[0] == ARITH
        size, rest = take_number(data[1:], MAX_TEXT_BYTES if coded else MAX_GRAPH_BYTES)
        codecs.check([{"id": data[0]}], len(rest), size)
        content = codecs.decode(rest, [{"id": data[0]}], np.dtype(np.uint8), (size,)).data
        return _take_table(content)
    except FormatError as error:
        raise FormatError(f"{where} is damaged: {error}") from error


def _take_table(content: memoryview) -> tuple[Table, memoryview]:
    """Return the table that content begins with, and the rest."""
    n_shared, rest = take_number(content, codecs.rans.MAX_TABLES)
    shared = []
    for _ in range(n_shared):
        length, rest = take_number(rest, MAX_TABLE_BYTES)
        shared.append(bytes(rest[:length]))
        rest = rest[length:]
    n_rows, rest = take_number(rest, MAX_ROWS)
    ids, rest = rest[:n_rows], rest[n_rows:]
    lengths = []
    for _ in range(n_rows):
        length, rest = take_number(rest, tensors.MAX_BYTES)
        lengths.append(length)
    if len(rest) < CRC.size * n_rows:
        raise FormatError(f"the table of {n_rows} tensors is cut off")
    crcs = itertools.islice(CRC.iter_unpack(rest[: CRC.size * n_rows]), n_rows)
    rows = [Row(*row) for row in zip(ids, lengths, (crc for (crc,) in crcs), strict=True)]
    for row in rows:
        codecs.by_id(row.codec)
    return Table(rows, tuple(shared)), rest[CRC.size * n_rows :]
