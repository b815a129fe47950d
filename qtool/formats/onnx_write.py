"""onnx_ir model -> ONNX file, tensor by tensor, with external data when one file cannot hold it."""

from __future__ import annotations

import hashlib
import io
import itertools
import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import onnx
import onnx_ir as ir

from qtool.formats import onnx_proto, tensors, wire
from qtool.formats.atomic import commit, explained, part, replacing

MAX_INLINE_BYTES = 1_900_000_000  # of weights in one protobuf, which ends at 2 GiB
STREAMED_BYTES = 4096  # smaller tensors are serialized with the graph
PAGE_BYTES = 4096  # tensors of external data start at multiples
HASH_DIGITS = 16  # in the name of a file of external data
INLINE = "inline"  # stands for a location while the graph is serialized


@dataclass(frozen=True)
class _Values:
    """The values of one tensor, to be written at an offset."""

    tensor: ir.TensorProtocol
    offset: int
    length: int

    def __len__(self) -> int:
        """Return the number of bytes."""
        return self.length


def dumps(clone: ir.Model) -> bytes:
    """Return the model as the bytes of one ONNX file. Takes the tensors out of clone."""
    file = io.BytesIO()
    _write(clone, _large_tensors(clone), file)
    return file.getvalue()


def save(clone: ir.Model, path: str | os.PathLike[str]) -> None:
    """Write the model to one file, or to two if it is too large. Takes the tensors out of clone.

    The second, NAME.onnx.HASH.data, is complete before the first is renamed into place, and its
    name comes from its content: at any moment NAME.onnx, old or new, has its own data beside
    it. At the end the data of earlier versions of NAME.onnx is removed.

    Raises:
        QtoolError: a file cannot be written.
    """
    values = _large_tensors(clone)
    location = ""
    if sum(map(len, values)) > MAX_INLINE_BYTES:
        location = _write_data(values, path)
        _refer(clone, values, location)
        values = []
    with replacing(path) as file:
        _write(clone, values, file)
    _remove_old_data(Path(os.path.realpath(path)), location)


def _large_tensors(clone: ir.Model) -> list[_Values]:
    """Return the tensors that are written from where they are, in the order of the file."""
    values: list[_Values] = []
    offset = 0

    def take(tensor: ir.TensorProtocol) -> None:
        nonlocal offset
        if tensors.is_large(tensor, STREAMED_BYTES):
            length = tensors.n_bytes(tensor.dtype, tensor.shape.numpy())
            values.append(_Values(tensor, offset, length))
            offset = -(-(offset + length) // PAGE_BYTES) * PAGE_BYTES

    tensors.replace_tensors(clone, take)
    return values


def _refer(clone: ir.Model, values: list[_Values], location: str) -> None:
    """Replace the tensors by references to external data."""
    rest = iter(values)

    def refer(tensor: ir.TensorProtocol) -> ir.TensorProtocol | None:
        if not tensors.is_large(tensor, STREAMED_BYTES):
            return None
        value = next(rest)
        return tensors.reference(tensor, location, value.offset, value.length)

    tensors.replace_tensors(clone, refer)


def _write(clone: ir.Model, values: list[_Values], file: BinaryIO) -> None:
    """Write the model with these tensors in it, one in memory at a time."""
    if values:
        _refer(clone, values, INLINE)
    at = {str(value.offset): value for value in values}

    def inline(tensor: onnx.TensorProto) -> _Values | None:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        return at[entries["offset"]] if entries["location"] == INLINE else None

    graph = onnx_proto.serialize(clone)
    for piece in wire.put_in(graph, inline) if values else [graph]:
        if isinstance(piece, bytes | memoryview):
            file.write(piece)
        elif isinstance(piece, _Values):
            for chunk in tensors.chunks(piece.tensor, piece.length):
                file.write(chunk)


def _write_data(values: list[_Values], path: str | os.PathLike[str]) -> str:
    """Write a file of external data beside path, and return its name."""
    target = Path(os.path.realpath(path))
    digest = hashlib.sha256()
    with explained(path), part(target) as file:
        for value in values:
            pad = [bytes(value.offset - file.tell())]
            for chunk in itertools.chain(pad, tensors.chunks(value.tensor, value.length)):
                digest.update(chunk)
                file.write(chunk)
        name = f"{target.name}.{digest.hexdigest()[:HASH_DIGITS]}.data"
        commit(file, target.with_name(name))
    return name


def _remove_old_data(target: Path, keep: str) -> None:
    pattern = re.compile(re.escape(target.name) + rf"\.[0-9a-f]{{{HASH_DIGITS}}}\.data")
    for entry in os.scandir(target.parent):
        if pattern.fullmatch(entry.name) and entry.name != keep:
            with suppress(OSError):  # it only wastes space
                os.unlink(entry.path)
