"""Arrays in .npy and .npz files, mapped where their bytes lie plain in the file.

A compressed member of an .npz is unpacked once when it is first used: into memory up to
MAX_IN_MEMORY, else into an unnamed temporary file that is mapped. Nothing is unpickled.
"""

from __future__ import annotations

import lzma
import math
import mmap
import shutil
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from qtool.errors import DataError, FormatError, QtoolError

Array = npt.NDArray[Any]
MAX_IN_MEMORY = 64 << 20
CHUNK = 1 << 20
LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature, ..., length of name, length of extra


class Opened(NamedTuple):
    """The values of an array, and what gives back the memory of those read so far."""

    values: Array
    forget: Callable[[], object]


@dataclass(frozen=True)
class Stored:
    """An array whose values are not read yet; name says which, of which file."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    open: Callable[[], Opened]


@dataclass(frozen=True)
class _Header:
    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]
    offset: int  # of the first value, from the start of the .npy

    @property
    def end(self) -> int:
        return self.offset + math.prod(self.shape) * self.dtype.itemsize


def stored(array: Array, name: str) -> Stored:
    """Return an array in memory as one that is stored."""
    return Stored(name, array.shape, array.dtype, lambda: Opened(array, _nothing))


def stored_arrays(path: Path) -> dict[str, Stored]:
    """Return the arrays of a .npz by name, or the one of a .npy under the name "".

    Raises:
        FormatError: the file is damaged, or holds pickled objects.
        QtoolError: the file cannot be read.
    """
    try:
        if path.suffix.lower() == ".npy":
            return {"": _open_npy(path)}
        with zipfile.ZipFile(path) as archive:
            names = [n for n in archive.namelist() if n.endswith(".npy")]
            if len(set(names)) < len(names):
                raise FormatError(f"{path} holds two arrays of one name")
            return {n[:-4]: _open_member(path, archive, archive.getinfo(n)) for n in names}
    except OSError as error:
        raise QtoolError(f"cannot read {path}: {error.strerror or error}") from None
    except _DAMAGED as error:
        raise FormatError(f"{path} is not a {path.suffix} file that can be read: {error}") from None


_DAMAGED = (
    zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError, RuntimeError,
    struct.error, TypeError, SyntaxError, OverflowError, lzma.LZMAError,
)  # fmt: skip


def _open_npy(path: Path) -> Stored:
    with path.open("rb") as file:
        header = _read_header(file, str(path))
    size = path.stat().st_size
    if header.end > size and not header.dtype.hasobject:
        raise FormatError(f"{path}: the array needs {header.end} bytes but the file has {size}")
    return Stored(str(path), header.shape, header.dtype, partial(_map_file, path, header, 0))


def _open_member(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Stored:
    name = f"{path}: array {member.filename[:-4]!r}"
    with archive.open(member) as file:
        header = _read_header(file, name)
    if header.end != member.file_size and not header.dtype.hasobject:
        raise FormatError(f"{name} needs {header.end} bytes but the file has {member.file_size}")
    if member.compress_type == zipfile.ZIP_STORED:
        start = _start(path, member)
        if start + header.end > path.stat().st_size:
            raise FormatError(f"{name} ends behind the end of the file; get the file again")
        return Stored(name, header.shape, header.dtype, partial(_map_file, path, header, start))
    unpack = partial(_unpack, path, member.filename, header, name)
    return Stored(name, header.shape, header.dtype, unpack)


def _read_header(file: IO[bytes], name: str) -> _Header:
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    elif version == (2, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_2_0(file)
    else:
        raise FormatError(f"{name}: .npy version {version} is not supported; use plain numbers")
    if any(size < 0 for size in shape):
        raise FormatError(f"{name}: shape {shape} is negative")
    return _Header(tuple(shape), fortran, dtype, file.tell())


def _start(path: Path, member: zipfile.ZipInfo) -> int:
    """Return where the bytes of a stored member begin in the file."""
    with path.open("rb") as file:
        file.seek(member.header_offset)
        signature, name, extra = LOCAL_HEADER.unpack(file.read(LOCAL_HEADER.size))
    if signature != b"PK\x03\x04":
        raise FormatError(f"{path}: no member begins at byte {member.header_offset}")
    return int(member.header_offset + LOCAL_HEADER.size + name + extra)


def _map_file(path: Path, header: _Header, start: int) -> Opened:
    refuse_objects(header.dtype, str(path))
    try:
        with path.open("rb") as file:
            return _map(file, header, start)
    except (OSError, ValueError) as error:
        raise QtoolError(f"cannot read {path}: {error}") from None


def _map(file: IO[bytes], header: _Header, start: int) -> Opened:
    """Return the array that begins at start in the file, mapped; the file may then be closed."""
    order: Any = "F" if header.fortran else "C"
    if header.end == header.offset:
        return Opened(np.zeros(header.shape, header.dtype), _nothing)
    pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    values = np.frombuffer(
        pages, header.dtype, math.prod(header.shape), start + header.offset
    ).reshape(header.shape, order=order)
    if not hasattr(pages, "madvise"):
        return Opened(values, _nothing)
    return Opened(values, partial(pages.madvise, mmap.MADV_DONTNEED))


def _nothing() -> None:
    """Arrays in memory cannot be forgotten."""


def _unpack(path: Path, member: str, header: _Header, name: str) -> Opened:
    """Return a compressed member, unpacked into memory or a temporary file."""
    refuse_objects(header.dtype, name)
    try:
        with zipfile.ZipFile(path) as archive, archive.open(member) as source:
            if header.end <= MAX_IN_MEMORY:
                content = _exactly(source, header.end, name)
                flat = np.frombuffer(content, header.dtype, offset=header.offset)
                order: Any = "F" if header.fortran else "C"
                return Opened(flat.reshape(header.shape, order=order), _nothing)
            return _unpack_to_disk(source, header, name)
    except OSError as error:
        raise QtoolError(f"cannot unpack {name}: {error.strerror or error}") from None
    except _DAMAGED as error:
        raise FormatError(f"{name} is damaged: {error}; get the file again") from None


def _unpack_to_disk(source: IO[bytes], header: _Header, name: str) -> Opened:
    free = shutil.disk_usage(tempfile.gettempdir()).free
    if header.end > free:
        raise DataError(
            f"{name} unpacks to {header.end} bytes but {tempfile.gettempdir()} has only "
            f"{free} free; write it with numpy.savez, or set TMPDIR to a larger disk"
        )
    with tempfile.TemporaryFile() as file:
        shutil.copyfileobj(source, file, CHUNK)
        file.flush()
        if file.tell() != header.end:
            raise FormatError(f"{name} is cut short; get the file again")
        return _map(file, header, 0)


def _exactly(source: IO[bytes], length: int, name: str) -> bytes:
    found = source.read(length)
    if len(found) != length:
        raise FormatError(f"{name} is cut short; get the file again")
    source.read(1)  # reaching the end checks the CRC
    return found


def refuse_objects(dtype: np.dtype[Any], name: str) -> None:
    """Raise DataError where values of this dtype would have to be unpickled."""
    if dtype.hasobject:
        raise DataError(
            f"{name} holds pickled Python objects, which may run code when they are read; "
            f"save it as an array of numbers"
        )
