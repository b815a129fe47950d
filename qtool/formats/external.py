"""The files beside an .onnx that hold its larger tensors: found, refused, mapped."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from qtool.errors import FormatError
from qtool.formats.mapping import map_file
from qtool.formats.quoted import quoted


class ExternalFiles:
    """The files in one folder, each opened once and mapped.

    Only regular files inside the folder: no absolute paths, no "..", and no symbolic link that
    leads out, because the model's author chose the name, not its user.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._folder = Path(folder)
        self._mapped: dict[str, memoryview] = {}

    def size(self, location: str) -> int:
        """Return the size of the file; see data()."""
        return len(self.data(location))

    def data(self, location: str) -> memoryview:
        """Return the content of the file that a tensor's location names.

        Raises:
            FormatError: the name leads out of the folder, or there is no such file.
        """
        if location not in self._mapped:
            self._mapped[location] = self._open(location)
        return self._mapped[location]

    def _open(self, location: str) -> memoryview:
        path = self._path(location)
        flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
        try:
            with open(os.open(path, flags), "rb") as file:
                status = os.fstat(file.fileno())
                if not stat.S_ISREG(status.st_mode):
                    raise FormatError(f"its external data {quoted(location)} is no regular file")
                return map_file(file) if status.st_size else memoryview(b"")
        except OSError as error:
            raise FormatError(
                f"its external data {quoted(location)} cannot be read: {error.strerror}; "
                "it belongs beside the .onnx file"
            ) from error

    def _path(self, location: str) -> str:
        parts = Path(location).parts
        if "\0" in location or "\\" in location or Path(location).is_absolute() or ".." in parts:
            raise FormatError(
                f"its external data {quoted(location)} is outside of the model's folder; "
                "only files inside it are read"
            )
        folder = os.path.realpath(self._folder)
        path = os.path.realpath(self._folder / location)
        if os.path.commonpath([folder, path]) != folder:
            raise FormatError(
                f"its external data {quoted(location)} is a link that leads out of the model's "
                "folder; copy the file itself into it"
            )
        return path
