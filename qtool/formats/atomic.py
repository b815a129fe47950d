"""Writes that are complete or have not happened."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from qtool.errors import QtoolError

MAX_PREFIX = 100  # characters of the name that a temporary file shows; names end at 255 bytes


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Yield a seekable file whose content becomes path when the block ends, not when it raises.

    The bytes go to a temporary file beside path, are flushed to the disk and renamed over it,
    so that at any moment path is the old file or the new one. A symbolic link stays, and what
    it points to is replaced. What is no file, such as a pipe or /dev/null, is written to at the
    end.

    Raises:
        QtoolError: the folder is missing, read-only or full, or path is a folder.
    """
    target = Path(os.path.realpath(path))
    check_target(path)
    with explained(path):
        if target.exists() and not target.is_file():
            with tempfile.TemporaryFile() as file:
                yield file
                _copy(file, target)
            return
        with part(target) as file:
            yield file
            commit(file, target)


def check_target(path: str | os.PathLike[str]) -> None:
    """Check what can be known before: that there is a folder to write into, and no folder there.

    Raises:
        QtoolError: replacing(path) would fail.
    """
    with explained(path):  # a name that is too long
        target = Path(os.path.realpath(path))
        written = target if target.exists() and not target.is_file() else target.parent
        folder = target.is_dir()
    if folder:
        reason = "it is a folder"
    elif not target.parent.is_dir():
        reason = f"there is no folder {target.parent}"
    elif not os.access(written, os.W_OK):
        reason = os.strerror(errno.EACCES)
    else:
        return
    raise QtoolError(f"cannot write {os.fspath(path)}: {reason}")


@contextmanager
def part(target: Path) -> Iterator[BinaryIO]:
    """Yield a new file in the folder of target; it is deleted at the end unless committed."""
    folder, name = target.parent, target.name[:MAX_PREFIX]
    temporary = folder / f".{name}.{os.urandom(6).hex()}.part"
    try:
        with open(temporary, "x+b") as file:
            yield file
    finally:
        with suppress(OSError):
            temporary.unlink()


def commit(file: BinaryIO, target: Path) -> None:
    """Make the content of a part file that of target, now and after a loss of power."""
    file.flush()
    with suppress(OSError):  # a new file has the permissions that the umask gives it
        os.fchmod(file.fileno(), target.stat().st_mode & 0o7777)
    os.fsync(file.fileno())
    os.replace(file.name, target)
    with suppress(OSError):  # some folders cannot be opened or synced; the file is there
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


@contextmanager
def explained(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn an OSError of the block into a QtoolError that says why path cannot be written."""
    try:
        yield
    except OSError as error:
        raise QtoolError(f"cannot write {os.fspath(path)}: {error.strerror or error}") from error


def _copy(file: BinaryIO, target: Path) -> None:
    file.seek(0)
    with open(target, "wb") as sink:
        shutil.copyfileobj(file, sink, 1 << 20)
