"""Whether sample data is still what it was, as far as the file system tells."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from qtool.data.images import pictures_of_list
from qtool.data.sources import split_rows
from qtool.errors import QtoolError


def state_of(source: str | None) -> str:
    """Return a hash of names, sizes and times of change of all files that a source names.

    Empty where it names none: for module:function, and without samples.
    """
    if source is None:
        return ""
    path = Path(split_rows(source)[0])
    if not path.exists():
        return ""
    digest = hashlib.sha256()
    for file in _files(path):
        with suppress(OSError):
            known = file.stat()
            digest.update(
                f"{file}\0{known.st_size}\0{known.st_mtime_ns}\n".encode(errors="replace")
            )
    return digest.hexdigest()


def _files(path: Path) -> Iterator[Path]:
    """Yield the file; of a folder all below, of a list also those that its lines name."""
    yield path
    if path.is_dir():
        yield from sorted(path.rglob("*"))
    elif path.suffix.lower() == ".txt":
        with suppress(QtoolError, OSError):
            yield from (picture.path for picture in pictures_of_list(path))
