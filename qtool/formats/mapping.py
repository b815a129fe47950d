"""Files that are mapped into memory, and parts of them that leave it again after use."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from typing import Any
from weakref import finalize

import numpy as np
import numpy.typing as npt

PIECE_BYTES = 1 << 24
RELEASED_BYTES = 1 << 16  # smaller parts are not worth the call


def map_file(file: Any) -> memoryview:
    """Return the content of a file that is not empty, mapped; it outlives the file object."""
    return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def view(data: memoryview, start: int, length: int) -> npt.NDArray[np.uint8]:
    """Return bytes of data, not copied.

    If data is a mapped file, their pages are given back when nobody uses the array any more:
    otherwise whoever looks at all tensors of a model, one after the other, holds them all.
    """
    if length == 0:
        return np.empty(0, np.uint8)
    values = np.frombuffer(data, np.uint8, length, start)
    if (
        isinstance(data.obj, mmap.mmap)
        and length >= RELEASED_BYTES
        and hasattr(mmap, "MADV_DONTNEED")
    ):
        finalize(values, _release, data.obj, start, length).atexit = False
    return values


def pieces(data: memoryview, start: int, length: int) -> Iterator[memoryview]:
    """Yield bytes of data in pieces; of a mapped file, one piece is in memory at a time."""
    for at in range(start, start + length, PIECE_BYTES):
        yield view(data, at, min(PIECE_BYTES, start + length - at)).data


def release(piece: bytes | memoryview) -> None:
    """Give the pages of an array that is mapped from a file, and only read, back after use."""
    array = piece.obj if isinstance(piece, memoryview) and piece.nbytes >= RELEASED_BYTES else None
    only_read = False
    while isinstance(array, np.ndarray):
        only_read |= isinstance(array, np.memmap) and array.mode == "r"
        array = array.base
    if only_read and isinstance(array, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        array.madvise(mmap.MADV_DONTNEED)


def _release(mapped: mmap.mmap, start: int, length: int) -> None:
    first = start // mmap.PAGESIZE * mmap.PAGESIZE
    mapped.madvise(mmap.MADV_DONTNEED, first, start + length - first)
