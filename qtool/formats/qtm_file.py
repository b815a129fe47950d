""".qtm files <-> Model, as docs/qtm-format.md says."""

from __future__ import annotations

import io
import itertools
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, BinaryIO

import onnx_ir as ir

from qtool import __version__
from qtool.errors import FormatError
from qtool.formats import (
    container,
    manifest,
    mapping,
    onnx_proto,
    packed,
    packed_graph,
    statistics_bin,
    tensors,
)
from qtool.formats.atomic import replacing
from qtool.formats.looks_like import QTM, looks_like
from qtool.formats.manifest import Entry, Manifest
from qtool.formats.quoted import quoted
from qtool.model import BatchNormStatistics, Model, Statistics

MANIFEST, GRAPH, GRAPH_2, TENSORS, PACKED, STATISTICS = MEMBERS = (
    "manifest.json",
    "graph.onnx",
    "graph.bin",
    "tensors.bin",
    "packed.bin",
    "statistics.bin",
)
NEEDED = {  # of each version, the members that must be there
    manifest.PLAIN: (MANIFEST, GRAPH, TENSORS),
    manifest.PACKED_2: (MANIFEST, GRAPH_2, TENSORS),
    manifest.PACKED: (MANIFEST, PACKED),
}
MAX_MANIFEST_BYTES = 1 << 24
MAX_GRAPH_BYTES = 1 << 28
MAX_STATISTICS_BYTES = 1 << 40  # it is mapped, not read
INLINE_BYTES = 256  # smaller tensors stay in graph.onnx
CHECK_BYTES = 1 << 26  # tensors of smaller files are checked when loaded, others when used


Part = tuple[container.Member, Iterable[bytes | memoryview]]


def load(path: str | os.PathLike[str]) -> Model:
    """Return the model of a .qtm file; its tensors are mapped, not read.

    Raises:
        FormatError: the file is damaged or no .qtm.
    """
    name = os.fspath(path)
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            raise FormatError(f"{name}: is empty")
        return _loads(mapping.map_file(file), name)


def loads(data: bytes | memoryview, *, name: str) -> Model:
    """Return the model of the bytes of a .qtm file; name is for messages.

    Raises:
        FormatError: the bytes are damaged or no .qtm.
    """
    return _loads(memoryview(data), name)


def save(model: Model, path: str | os.PathLike[str]) -> None:
    """Write the model to a .qtm file, atomically."""
    with replacing(path) as file:
        write(model, file)


def dumps(model: Model) -> bytes:
    """Return the model as the bytes of a .qtm file."""
    file = io.BytesIO()
    write(model, file)
    return file.getvalue()


@dataclass(frozen=True)
class _Stored:
    """A row of the table and the tensor that it describes."""

    entry: Entry
    tensor: ir.TensorProtocol

    def pieces(self) -> Iterator[bytes | memoryview]:
        """Yield the stored bytes."""
        return tensors.chunks(self.tensor, self.entry.length)


def write(model: Model, file: BinaryIO) -> None:
    """Write the model to a file, which need not seek, as a .qtm.

    Reads the tensors twice: first for their checksums, which the manifest in front has.
    """
    clone = model.ir.clone()
    table = _take_tensors(clone)
    parts = [container.pack(GRAPH, onnx_proto.serialize(clone)), _tensors_part(table)]
    _write(model, file, parts, [stored.entry for stored in table], manifest.PLAIN)


def write_packed(
    model: Model,
    file: BinaryIO,
    *,
    max: bool = False,
    threads: int | None = None,
    progress: packed.Progress = packed.no_progress,
) -> None:
    """Write the model to a file, which need not seek, packed: each tensor in its smallest codec.

    max also tries codecs that are slow. The bytes are the same for any number of threads; the
    encoded tensors are held in memory.
    """
    found = packed.pack(model.ir.clone(), max=max, threads=threads, progress=progress)
    content = _manifest(model, [], manifest.PACKED)
    first = container.pack(MANIFEST, content.dumps())
    statistics = _statistics_parts(model)
    graph = onnx_proto.serialize(found.graph, locations=False)
    crcs = [member.crc for member, _ in (first, *statistics)]
    head = packed_graph.Head(found.table, content.dumps_details(), graph, *crcs)
    start = packed_graph.dumps(head, max=max)
    size, crc = found.table.place(len(start)), zlib.crc32(start)
    for piece in found.pieces(len(start)):
        crc = zlib.crc32(piece, crc)
    aligned = any(row.is_mapped for row in found.table.rows)
    member = replace(_stored(PACKED, size, crc), aligned=aligned)
    rows = itertools.chain([start], found.pieces(len(start)))
    container.write(file, [first, (member, rows), *statistics])


def packed_size(model: Model, *, max: bool = False, threads: int | None = None) -> int:
    """Return the bytes of the packed .qtm of the model: exact, and as slow as packing."""
    file = io.BytesIO()
    write_packed(model, file, max=max, threads=threads)
    return file.tell()


def _stored(name: str, size: int, crc: int) -> container.Member:
    return container.Member(name, container.STORED, size, size, crc)


def _write(
    model: Model, file: BinaryIO, parts: list[Part], entries: list[Entry], version: int
) -> None:
    parts += _statistics_parts(model)
    content = _manifest(model, entries, version)
    content.members = {member.name: (member.size, member.crc) for member, _ in parts}
    container.write(file, [container.pack(MANIFEST, content.dumps()), *parts])


def _tensors_part(table: list[_Stored]) -> Part:
    """Return tensors.bin and its data; puts the checksums into the table."""
    size = crc = 0
    for stored in table:
        stored.entry.crc = 0
        for chunk in stored.pieces():
            stored.entry.crc = zlib.crc32(chunk, stored.entry.crc)
            crc = zlib.crc32(chunk, crc)
        pad = bytes(-stored.entry.length % container.ALIGNMENT)
        crc = zlib.crc32(pad, crc)
        size += stored.entry.length + len(pad)
    return _stored(TENSORS, size, crc), _pieces(table)


def _pieces(table: list[_Stored]) -> Iterator[bytes | memoryview]:
    for stored in table:
        yield from stored.pieces()
        yield bytes(-stored.entry.length % container.ALIGNMENT)


def _statistics_parts(model: Model) -> list[Part]:
    """Return statistics.bin, if there is anything for it."""
    statistics = model.statistics
    if statistics is None and not model.batch_norm:
        return []
    tables = ({}, {}) if statistics is None else (statistics.tensors, statistics.grams)
    pieces = statistics_bin.dumps(*tables, model.batch_norm)
    size = crc = 0
    for piece in pieces:
        size, crc = size + len(piece), zlib.crc32(piece, crc)
        mapping.release(piece)
    return [(_stored(STATISTICS, size, crc), pieces)]


def _take_tensors(clone: ir.Model) -> list[_Stored]:
    """Replace the larger tensors by references, and return the table of what they refer to."""
    table: list[_Stored] = []
    known: dict[object, Entry] = {}  # one tensor used twice is stored once
    position = 0

    def refer(tensor: ir.TensorProtocol) -> ir.TensorProtocol | None:
        nonlocal position
        if not tensors.is_large(tensor, INLINE_BYTES):
            return None
        shape = tuple(tensor.shape.numpy())
        place = tensor.place if isinstance(tensor, tensors.StoredTensor) else id(tensor)
        entry = known.get((place, tensor.dtype, shape))
        if entry is None:
            size = tensors.n_bytes(tensor.dtype, shape)
            entry = Entry(tensor.name or "", tensor.dtype, shape, tensors.RAW, position, size)
            known[place, tensor.dtype, shape] = entry
            table.append(_Stored(entry, tensor))
            position = _aligned(position + size)
        return tensors.reference(tensor, TENSORS, entry.offset, entry.length)

    tensors.replace_tensors(clone, refer)
    return table


def _aligned(position: int) -> int:
    return -(-position // container.ALIGNMENT) * container.ALIGNMENT


def _manifest(model: Model, entries: list[Entry], version: int) -> Manifest:
    return Manifest(
        f"qtool {__version__}",
        model.source,
        model.history,
        model.preprocess,
        model.statistics,
        {},
        entries,
        version,
    )


def _loads(data: memoryview, name: str) -> Model:
    kind = looks_like(bytes(data[:512]))
    if kind != QTM:
        raise FormatError(f"{name}: is not a .qtm" + (f"; it looks like {kind}" if kind else ""))
    members = container.read(data, name, MEMBERS, unaligned=[PACKED])
    if MANIFEST not in members:
        raise FormatError(f"{name}: has no {MANIFEST}; it is not a .qtm")
    text = container.content(data, name, members[MANIFEST], MAX_MANIFEST_BYTES)
    content = manifest.loads(bytes(text), name)
    _check_members(members, content, name)
    loaded, content = LOADERS[content.version](data, members, content, name)
    known, batch_norm = _statistics(data, members, content, name)
    return Model(loaded, known, batch_norm, content.preprocess, content.history, content.source)


def _check_members(members: Mapping[str, container.Member], content: Manifest, name: str) -> None:
    """Check that the members are those of the version and of the manifest."""
    for needed in NEEDED[content.version]:
        if needed not in members:
            raise FormatError(f"{name}: has no {needed}; it is not a .qtm")
    for found in members:
        if found not in (*NEEDED[content.version], STATISTICS):
            raise FormatError(f"{name}: has {found}, which is of another version")
    if content.version == manifest.PACKED:
        return  # the rest is in packed.bin
    if {m.name: (m.size, m.crc) for m in list(members.values())[1:]} != content.members:
        raise FormatError(f"{name}: manifest.json does not belong to the other members")
    if members[TENSORS].method != container.STORED:
        raise FormatError(f"{name}: {TENSORS} is compressed; it must be stored")


def _load_plain(
    data: memoryview, members: Mapping[str, container.Member], content: Manifest, name: str
) -> tuple[ir.Model, Manifest]:
    graph = container.content(data, name, members[GRAPH], MAX_GRAPH_BYTES)
    loaded = onnx_proto.parse(graph, f"{name}: {GRAPH}", _only(TENSORS, members[TENSORS].size))
    _put_tensors(loaded, data, members[TENSORS], content, name)
    return loaded, content


def _load_packed(
    data: memoryview, members: Mapping[str, container.Member], content: Manifest, name: str
) -> tuple[ir.Model, Manifest]:
    member, where = members[PACKED], f"{name}: {PACKED}"
    if member.method != container.STORED:
        raise FormatError(f"{where} is compressed; it must be stored")
    head = packed_graph.loads(data[member.start : member.start + member.size], where)
    others = [members[m].crc if m in members else 0 for m in (MANIFEST, STATISTICS)]
    if [head.manifest_crc, head.statistics_crc] != others:
        raise FormatError(f"{where} does not belong to the other members")
    content = manifest.with_details(content, bytes(head.details), where)
    check = member.size <= CHECK_BYTES
    rows = packed.Rows(head.table, data, member, name, graph=PACKED, start=head.length, check=check)
    loaded = onnx_proto.parse(head.graph, where, None, rows.put)
    rows.check()
    return loaded, content


def _load_version_2(
    data: memoryview, members: Mapping[str, container.Member], content: Manifest, name: str
) -> tuple[ir.Model, Manifest]:
    member, where = members[TENSORS], f"{name}: {GRAPH_2}"
    if members[GRAPH_2].method != container.STORED:
        raise FormatError(f"{where} is compressed; it must be stored")
    coded = container.content(data, name, members[GRAPH_2], MAX_GRAPH_BYTES)
    table, graph = packed_graph.loads_2(coded, where)
    check = member.size <= CHECK_BYTES
    rows = packed.Rows(table, data, member, name, graph=GRAPH_2, check=check)
    # A reference has the number of a row where a plain one has an offset: any size does.
    loaded = onnx_proto.parse(graph, where, _only(TENSORS, 2 * manifest.MAX_BYTES))
    tensors.replace_tensors(loaded, rows.at_offset)
    rows.check()
    return loaded, content


LOADERS = {
    manifest.PLAIN: _load_plain,
    manifest.PACKED_2: _load_version_2,
    manifest.PACKED: _load_packed,
}


def _only(member: str, size: int) -> Callable[[str], int]:
    """Return the sizes of external data where there is but one file of it."""

    def size_of(location: str) -> int:
        if location != member:
            raise FormatError(f"its data is in {quoted(location)}; only {member} is possible")
        return size

    return size_of


def _put_tensors(
    loaded: ir.Model, data: memoryview, member: container.Member, content: Manifest, name: str
) -> None:
    """Replace the references of the graph by the tensors of the table."""
    rows = _rows(content, member, name)

    def stored(entry: Entry, **named: Any) -> tensors.StoredTensor:
        return tensors.StoredTensor(
            data, member.start + entry.offset, entry.length, entry.dtype, entry.shape,
            where=(name, entry.name), links=entry.codecs, crc=entry.crc,
            **named,
        )  # fmt: skip

    def resolve(tensor: ir.TensorProtocol) -> ir.TensorProtocol | None:
        if not isinstance(tensor, ir.ExternalTensor):
            return None
        entry = rows.get((tensor.offset or 0, tensor.length or 0))
        if entry is None or (entry.dtype, entry.shape) != (tensor.dtype, tensor.shape.numpy()):
            raise FormatError(f"{name}: {GRAPH}: tensor {quoted(tensor.name)} is not in the table")
        return stored(
            entry, name=tensor.name, doc_string=tensor.doc_string,
            metadata_props=dict(tensor.metadata_props),
        )  # fmt: skip

    if member.size <= CHECK_BYTES:
        for entry in content.tensors:
            stored(entry).check()
        container.content(data, name, member, CHECK_BYTES)
    tensors.replace_tensors(loaded, resolve)


def _rows(content: Manifest, member: container.Member, name: str) -> dict[tuple[int, int], Entry]:
    """Return the table by offset and length; its rows must fill tensors.bin exactly."""
    end = 0
    for entry in content.tensors:
        if entry.offset != end or entry.length > member.size - entry.offset:
            raise FormatError(
                f"{name}: tensor {quoted(entry.name)} has bytes {entry.offset} to "
                f"{entry.offset + entry.length} of {TENSORS}; it should begin at {end} "
                f"and end before {member.size}"
            )
        end = _aligned(entry.offset + entry.length)
    if end != member.size:
        raise FormatError(f"{name}: {TENSORS} has {member.size} bytes; its table needs {end}")
    return {(entry.offset, entry.length): entry for entry in content.tensors}


def _statistics(
    data: memoryview, members: dict[str, container.Member], content: Manifest, name: str
) -> tuple[Statistics | None, Mapping[str, BatchNormStatistics]]:
    known = content.statistics
    if STATISTICS not in members:
        if known is not None:
            raise FormatError(f"{name}: has no {STATISTICS}, but its manifest speaks of statistics")
        return None, {}
    if members[STATISTICS].method != container.STORED:
        raise FormatError(f"{name}: {STATISTICS} is compressed; it must be stored")
    text = container.content(data, name, members[STATISTICS], MAX_STATISTICS_BYTES)
    by_tensor, grams, batch_norm = statistics_bin.loads(text, f"{name}: {STATISTICS}")
    if known is None:
        if by_tensor or grams:
            raise FormatError(f"{name}: {STATISTICS} is not of the model that the manifest says")
        return None, batch_norm
    head = (known.model, known.source, known.n_samples, known.shards)
    return Statistics(*head, by_tensor, grams), batch_norm
