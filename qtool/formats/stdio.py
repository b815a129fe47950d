"""Models through pipes: .qtm bytes on standard input and output."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable
from typing import Any

from qtool.errors import FormatError, QtoolError
from qtool.formats import mapping, qtm_file
from qtool.formats.terminal import refuse_terminal
from qtool.model import Model

MEMORY_BYTES = 1 << 26  # larger models wait in a temporary file, and are mapped
NAME = "standard input"


def load() -> Model:
    """Return the model that standard input brings.

    Raises:
        UsageError: standard input is a terminal.
        FormatError: the bytes are no .qtm.
    """
    refuse_terminal(sys.stdin, "input", "pipe a .qtm into it")
    with tempfile.SpooledTemporaryFile(MEMORY_BYTES) as file:
        shutil.copyfileobj(sys.stdin.buffer, file, 1 << 20)
        size = file.tell()
        if size == 0:
            raise FormatError(f"{NAME} is empty: did the command before the pipe fail?")
        file.seek(0)
        if size <= MEMORY_BYTES:
            return qtm_file.loads(file.read(), name=NAME)
        return qtm_file.loads(mapping.map_file(file), name=NAME)


def save(model: Model, write: Callable[[Model, Any], None] = qtm_file.write) -> None:
    """Write the model to standard output, as write() does to a file.

    Raises:
        UsageError: standard output is a terminal.
        QtoolError: it cannot be written, such as to a full disk.
        BrokenPipeError: it is a pipe that nobody reads any more.
    """
    refuse_terminal(sys.stdout, "output", "pipe the .qtm on")
    try:
        write(model, _Unbuffered(sys.stdout.buffer))
    except BrokenPipeError:
        raise
    except OSError as error:
        raise QtoolError(f"cannot write standard output: {error.strerror or error}") from error


class _Unbuffered:
    """Writes past the buffer of a file, which would try again, and fail again, at exit."""

    def __init__(self, file: Any) -> None:
        file.flush()
        self._file = getattr(file, "raw", file)

    def write(self, data: bytes | memoryview) -> None:
        """Write all of data."""
        rest = memoryview(data)
        while rest:
            rest = rest[self._file.write(rest) or 0 :]
