"""Files <-> Model, by the ending of the file's name."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from qtool.errors import QtoolError, UsageError
from qtool.model import Model

ENDINGS = (".onnx", ".qtm")
STDIO = "-"


def load(path: str | os.PathLike[str]) -> Model:
    """Return the model of a .onnx or .qtm file; "-" reads .qtm bytes from standard input.

    Whatever the bytes are, nothing but QtoolErrors is raised.

    Raises:
        FormatError: the bytes are damaged or are not what the ending says.
        ModelError, UnsupportedError: the model breaks the rules of ONNX, or qtool's.
        QtoolError: the file cannot be read.
    """
    name = "standard input" if os.fspath(path) == STDIO else os.fspath(path)
    try:
        if os.fspath(path) == STDIO:
            from qtool.formats import stdio

            return stdio.load()
        return _load(path)
    except OSError as error:
        raise QtoolError(f"cannot read {name}: {error.strerror or error}") from error
    except MemoryError as error:
        raise QtoolError(f"cannot read {name}: it needs more memory than there is") from error


def _load(path: str | os.PathLike[str]) -> Model:
    kind = ending(path)
    if not Path(path).is_file():
        problem = "there is no such file"
        if Path(path).exists():
            problem = "it is a folder" if Path(path).is_dir() else "it is no regular file"
        raise QtoolError(f"cannot read {os.fspath(path)}: {problem}")
    if kind == ".qtm":
        from qtool.formats import qtm_file

        return qtm_file.load(path)
    from qtool.formats import onnx_file

    return onnx_file.load(path)


def save(model: Model, path: str | os.PathLike[str]) -> None:
    """Write the model to a .onnx or .qtm file, atomically; "-" writes .qtm to standard output.

    Raises:
        QtoolError: the file cannot be written.
        BrokenPipeError: standard output is a pipe that nobody reads any more.
    """
    if os.fspath(path) == STDIO:
        from qtool.formats import stdio

        stdio.save(model)
    elif ending(path) == ".qtm":
        from qtool.formats import qtm_file

        qtm_file.save(model, path)
    else:
        from qtool.formats import onnx_file

        onnx_file.save(model, path)


def pack(model: Model, path: str | os.PathLike[str], *, max: bool = False, **options: Any) -> None:
    """Write the model to a packed .qtm, atomically; "-" writes to standard output.

    options are those of qtm_file.write_packed. load() reads the result as any other .qtm.

    Raises:
        UsageError: path does not end in .qtm.
        QtoolError: the file cannot be written.
        BrokenPipeError: standard output is a pipe that nobody reads any more.
    """
    from qtool.formats import qtm_file, stdio
    from qtool.formats.atomic import replacing

    if os.fspath(path) == STDIO:
        stdio.save(model, lambda m, file: qtm_file.write_packed(m, file, max=max, **options))
        return
    if ending(path) != ".qtm":
        raise UsageError(f"{os.fspath(path)}: packed models are .qtm files")
    with replacing(path) as file:
        qtm_file.write_packed(model, file, max=max, **options)


def packed_size(model: Model, *, max: bool = False, threads: int | None = None) -> int:
    """Return the bytes of the packed .qtm of the model: exact, and as slow as packing."""
    from qtool.formats import qtm_file

    return qtm_file.packed_size(model, max=max, threads=threads)


def check_output(path: str | os.PathLike[str]) -> None:
    """Check that save() to path can work, so that a long computation need not find out.

    Raises:
        UsageError: path has no ending of a model file, or standard output is a terminal.
        QtoolError: path cannot be written.
    """
    if os.fspath(path) == STDIO:
        from qtool.formats.terminal import refuse_terminal

        refuse_terminal(sys.stdout, "output", "pipe the .qtm on")
    else:
        ending(path)
        from qtool.formats.atomic import check_target

        check_target(path)


def ending(path: str | os.PathLike[str]) -> str:
    """Return the ending of path, one of ENDINGS.

    Raises:
        UsageError: it is none of them.
    """
    kind = Path(path).suffix.lower()
    if kind not in ENDINGS:
        found = f"ends in {kind!r}" if kind else "has no ending"
        if Path(path).is_dir():
            found = "is a folder"
        raise UsageError(f"{os.fspath(path)} {found}; a model file ends in {' or '.join(ENDINGS)}")
    return kind
