"""Writes that are complete or have not happened."""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from qtool.errors import QtoolError

JUST_MADE = 10.0  # seconds in which a part file may not be locked yet
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
    """Yield a new file in the folder of target; it is deleted at the end unless committed.

    What a killed writer of the same target left is deleted first.
    """
    folder, name = target.parent, target.name[:MAX_PREFIX]
    temporary = folder / f".{name}.{os.urandom(6).hex()}.part"
    _remove_stale(folder, name)
    try:
        with open(temporary, "x+b") as file:
            _lock(file)
            yield file
    finally:
        with suppress(OSError):
            temporary.unlink()


def _remove_stale(folder: Path, name: str) -> None:
    """Delete part files of this name that no process has locked, and that are not just made."""
    pattern = re.compile(rf"\.{re.escape(name)}\.[0-9a-f]{{12}}\.part")
    with suppress(OSError):
        for found in os.scandir(folder):
            if not pattern.fullmatch(found.name):
                continue
            with suppress(OSError), open(found.path, "rb") as file:
                old = time.time() - os.fstat(file.fileno()).st_mtime > JUST_MADE
                if old and _lock(file):
                    os.unlink(found.path)


def _lock(file: BinaryIO) -> bool:
    """Lock a file as long as it is open; tell whether nobody else had. The system unlocks it."""
    try:
        import fcntl
    except ImportError:  # no such system call: then nothing is ever stale
        return False
    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


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
