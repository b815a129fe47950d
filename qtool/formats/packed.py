"""Packs the tensors of a model: each in its smallest codec, equal ones once.

docs/qtm-format.md, section 6, has the tables. packed_graph reads and writes the table and the
graph, qtm_file the rest of the file.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from qtool import codecs
from qtool.codecs import scaled
from qtool.codecs.sharing import shared_tables
from qtool.codecs.streams import Array, bytes_of
from qtool.errors import FormatError, ModelError
from qtool.formats import container, mapping, tensors
from qtool.formats.packed_graph import Row, Table
from qtool.formats.quoted import quoted

Progress = Callable[[Iterable[Any], str, int | None], Iterable[Any]]

INLINE_BYTES = 64  # smaller tensors stay in the graph
SHARING_BYTES = 1 << 16  # of tensors whose streams may share frequency tables
LINKS: dict[int, Sequence[codecs.Link]] = {i: ({"id": i},) for i in codecs.ids()}
QUOTIENTS = 1 << 18  # steps between 0 and 1 by which multiples are found


@dataclass(frozen=True)
class Packed:
    """Encoded tensors and what refers to them."""

    table: Table
    data: Sequence[bytes]  # of each row
    graph: ir.Model  # its tensors say only that they are stored apart

    def pieces(self, start: int) -> Iterator[bytes]:
        """Yield the rows, from start of their member on."""
        end = start
        for row, data in zip(self.table.rows, self.data, strict=True):
            yield bytes(row.offset - end)
            yield data
            end = row.offset + row.length


def no_progress(items: Iterable[Any], label: str, total: int | None) -> Iterable[Any]:
    """Return items."""
    return items


def pack(clone: ir.Model, *, max: bool, threads: int | None, progress: Progress) -> Packed:
    """Return the tensors of clone, each in its smallest codec; takes them out of clone.

    The result is the same for any number of threads. Tensors with the same values are stored
    once.
    """
    found, wanted = _distinct(clone)
    multiples = _multiples(found)
    with ThreadPoolExecutor(threads or os.cpu_count() or 1) as pool:
        shared = _shared_tables(found, max, pool)

        def encode(row: int) -> tuple[bytes, int]:
            values = values_of(found[row])
            others = multiples.get(row, {})
            data, links = codecs.smallest(values, max=max, tables=shared, others=others)
            return data, links[0]["id"]

        encoded = list(progress(pool.map(encode, range(len(found))), "pack", len(found)))
    rows = [Row(codec, len(data), zlib.crc32(data)) for data, codec in encoded]
    _refer(clone)
    return Packed(Table(rows, shared, wanted), [data for data, _ in encoded], clone)


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

    tensors.replace_in_order(clone, collect)
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


def _refer(clone: ir.Model) -> None:
    """Replace the tensors by what says that they are stored apart."""

    def refer(tensor: ir.TensorProtocol) -> ir.TensorProtocol | None:
        if not tensors.is_large(tensor, INLINE_BYTES):
            return None
        return ir.ExternalTensor(
            "", None, None, tensor.dtype, shape=ir.Shape(tensor.shape.numpy()),
            name=tensor.name or "", doc_string=tensor.doc_string,
            metadata_props=dict(tensor.metadata_props),
        )  # fmt: skip

    tensors.replace_in_order(clone, refer)


class Rows:
    """The rows of a packed file, on their way into its graph.

    Raises:
        FormatError: graph and table do not belong together, or a row is damaged.
    """

    def __init__(
        self,
        table: Table,
        data: memoryview,
        member: container.Member,
        name: str,
        *,
        graph: str,
        start: int = 0,
        check: bool,
    ) -> None:
        """Take the rows of a member of data, which begin at start of it.

        graph is the member with the table and the graph, for messages; check says whether to look
        at checksums now.
        """
        if table.place(start) != member.size:
            raise FormatError(
                f"{name}: {member.name} has {member.size} bytes; its table needs others"
            )
        self._table, self._data, self._member, self._name = table, data, member, name
        self._graph, self._start, self._check = f"{name}: {graph}", start, check
        self._used: set[int] = set()
        self._common = {"tables": table.shared, "row": self._read}

    def put(self, model: ir.Model) -> None:
        """Put the rows into the graph, in order."""
        wanted = iter(self._table.wanted)

        def resolve(tensor: ir.TensorProtocol) -> ir.TensorProtocol | None:
            if not isinstance(tensor, ir.ExternalTensor):
                return None
            number = next(wanted, None)
            if number is None:
                raise FormatError(
                    f"{self._name}: tensor {quoted(tensor.name)} is stored apart, but there are "
                    f"rows for {len(self._table.wanted)} only"
                )
            return self._tensor(tensor, number)

        tensors.replace_in_order(model, resolve)
        left = sum(1 for _ in wanted)
        if left:
            raise FormatError(f"{self._name}: packed.bin has {left} rows more than tensors")

    def at_offset(self, tensor: ir.TensorProtocol) -> ir.TensorProtocol | None:
        """Return the row whose number is the offset of an external tensor, as in version 2."""
        if not isinstance(tensor, ir.ExternalTensor):
            return None
        return self._tensor(tensor, tensor.offset or 0)

    def check(self) -> None:
        """Check that all rows are used, and that there is nothing between them."""
        rows = self._table.rows
        if len(self._used) != len(rows):
            unused = len(rows) - len(self._used)
            raise FormatError(f"{self._graph}: {unused} rows are of no tensor")
        start = self._member.start
        end = start + self._start
        for row in rows:  # between rows, whose checksums say the rest, there are zeros only
            if end != start + row.offset and any(self._data[end : start + row.offset]):
                member = self._member.name
                raise FormatError(f"{self._name}: {member} has more than zeros between its rows")
            end = start + row.offset + row.length

    def _tensor(self, tensor: ir.ExternalTensor, number: int) -> tensors.StoredTensor:
        rows, shape = self._table.rows, tensor.shape
        if number >= len(rows):
            where = f"{self._name}: tensor {quoted(tensor.name)}"
            raise FormatError(f"{where} is row {number} of a table of {len(rows)}")
        row = rows[number]
        links = LINKS[row.codec]
        try:
            codecs.check(links, row.length, tensors.n_bytes(tensor.dtype, shape.numpy()))
        except FormatError as error:
            raise FormatError(f"{self._name}: tensor {quoted(tensor.name)}: {error}") from error
        stored = tensors.StoredTensor(
            self._data, self._member.start + row.offset, row.length, tensor.dtype, shape,
            where=(self._name, tensor.name or ""), links=links, common=self._common,
            crc=row.crc, name=tensor.name, doc_string=tensor.doc_string,
            metadata_props=dict(tensor.metadata_props),
        )  # fmt: skip
        if self._check:
            stored.check()
        self._used.add(number)
        return stored

    def _read(self, number: int) -> tuple[int, memoryview]:
        """Return codec and bytes of a row."""
        if number >= len(self._table.rows):
            rows = len(self._table.rows)
            raise FormatError(f"there is no row {number} in a table of {rows}")
        row = self._table.rows[number]
        stored = mapping.view(self._data, self._member.start + row.offset, row.length).data
        if zlib.crc32(stored) != row.crc:
            raise FormatError(f"row {number} is damaged (checksum); get the file again")
        return row.codec, stored


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
