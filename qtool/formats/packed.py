"""The packed form of a .qtm, version 2: tensors in the smallest codecs, table and graph in one.

docs/qtm-format.md, section 6, has the tables. qtm_file reads and writes the rest of the file.
"""

from __future__ import annotations

import functools
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
from qtool.codecs import arith, scaled
from qtool.codecs.sharing import shared_tables
from qtool.codecs.streams import Array, bytes_of, number, take_number
from qtool.errors import FormatError, ModelError
from qtool.formats import mapping, tensors

Progress = Callable[[Iterable[Any], str, int | None], Iterable[Any]]

INLINE_BYTES = 64  # smaller tensors stay in the graph
ALIGNMENT = 64  # of raw rows that are worth mapping
MAPPED_BYTES = 4096
MANY_TENSORS = 128  # small streams of more take long together, and save next to nothing
SHARING_BYTES = 1 << 16  # of tensors whose streams may share frequency tables
QUOTIENTS = 1 << 18  # steps between 0 and 1 by which multiples are found
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

    The result is the same for any number of threads. Tensors with the same values are stored
    once.
    """
    found, wanted = _distinct(clone)
    multiples = _multiples(found)
    smallest = functools.partial(codecs.smallest, max=max, quick=len(found) > MANY_TENSORS)
    with ThreadPoolExecutor(threads or os.cpu_count() or 1) as pool:
        shared = _shared_tables(found, max, pool)

        def encode(row: int) -> tuple[bytes, int]:
            values = values_of(found[row])
            others = multiples.get(row, {})
            data, links = smallest(values, tables=shared, others=others)
            return data, links[0]["id"]

        encoded = list(progress(pool.map(encode, range(len(found))), "pack", len(found)))
    rows = [Row(codec, len(data), zlib.crc32(data)) for data, codec in encoded]
    _refer(clone, location, wanted)
    return Packed(Table(rows, shared), [data for data, _ in encoded], clone)


def _distinct(clone: ir.Model) -> tuple[list[ir.TensorProtocol], list[int]]:
    """Return the tensors that differ; and of all, in the order of the file, which one it is."""
    found: list[ir.TensorProtocol] = []
    places: dict[object, int] = {}
    digests: dict[bytes, int] = {}
    wanted: list[int] = []

    def collect(tensor: ir.TensorProtocol) -> None:
        if not tensors.is_large(tensor, INLINE_BYTES):
            return
        place = tensor.place if isinstance(tensor, tensors.StoredTensor) else id(tensor)
        key = (place, tensor.dtype, tuple(tensor.shape.numpy()))
        if key not in places:
            digest = hashlib.sha256(bytes_of(values_of(tensor)).data).digest()
            places[key] = digests.setdefault(digest, len(found))
            if places[key] == len(found):
                found.append(tensor)
        wanted.append(places[key])

    tensors.replace_tensors(clone, collect)
    return found, wanted


def _multiples(found: Sequence[ir.TensorProtocol]) -> dict[int, dict[int, Array]]:
    """Return by row other rows, and their values, that it may be a multiple of."""
    first: dict[tuple[int, int], tuple[int, Array]] = {}  # by size and quotient of two values
    multiples: dict[int, dict[int, Array]] = {}
    for row, tensor in enumerate(found):
        size = tensors.n_bytes(tensor.dtype, tensor.shape.numpy()) // 4
        in_range = scaled.MIN_VALUES <= size <= scaled.MAX_VALUES
        if tensor.dtype != ir.DataType.FLOAT or not in_range or len(tensor.shape) > 1:
            continue
        values = tensor.numpy()
        quotient = _quotient(values)
        others = {r: v for q in (-1, 0, 1) for r, v in [first.get((size, quotient + q), (-1, None))]
                  if v is not None}  # fmt: skip
        if others:
            multiples[row] = others
        else:
            first[size, quotient] = row, values
    return multiples


def _quotient(values: Array) -> int:
    """Return the quotient of two values, about; multiples have the same one, or one beside it."""
    with np.errstate(all="ignore"):
        ends = np.sort(np.abs(values.astype(np.float64)))[[0, -1]]
        quotient = float(ends[0] / ends[1])
    return round(quotient * QUOTIENTS) if np.isfinite(quotient) else -1


def _shared_tables(
    found: Sequence[ir.TensorProtocol], max: bool, pool: ThreadPoolExecutor
) -> tuple[bytes, ...]:
    """Return frequency tables that the small tensors may share."""

    def look(tensor: ir.TensorProtocol) -> list[Array]:
        seen: list[Array] = []
        codecs.smallest(values_of(tensor), seen=seen)
        return seen

    small = [t for t in found if tensors.n_bytes(t.dtype, t.shape.numpy()) <= SHARING_BYTES]
    counts = [count for seen in pool.map(look, small) for count in seen]
    return tuple(shared_tables(counts))


def _refer(clone: ir.Model, location: str, wanted: Sequence[int]) -> None:
    """Replace the tensors by references to rows."""
    rows = iter(wanted)

    def refer(tensor: ir.TensorProtocol) -> ir.TensorProtocol | None:
        if not tensors.is_large(tensor, INLINE_BYTES):
            return None
        return ir.ExternalTensor(
            location, next(rows), None, tensor.dtype, shape=ir.Shape(tensor.shape.numpy()),
            name=tensor.name or "", doc_string=tensor.doc_string,
            metadata_props=dict(tensor.metadata_props),
        )  # fmt: skip

    tensors.replace_tensors(clone, refer)


def row_reader(
    table: Table, data: memoryview, start: int
) -> Callable[[int], tuple[int, memoryview]]:
    """Return what reads codec and bytes of a row; tensors.bin begins at start of data."""

    def read(number: int) -> tuple[int, memoryview]:
        if number >= len(table.rows):
            raise FormatError(f"there is no row {number} in a table of {len(table.rows)}")
        row = table.rows[number]
        stored = mapping.view(data, start + row.offset, row.length).data
        if zlib.crc32(stored) != row.crc:
            raise FormatError(f"row {number} is damaged (checksum); get the file again")
        return row.codec, stored

    return read


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
