"""Files <-> Model, by the ending of the file's name."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from qtool.errors import QtoolError, UsageError
from qtool.model import Model

ENDINGS = (".onnx", ".qtm")
STDIO = "-"


def load(path: str | os.PathLike[str]) -> Model:
    """Return the model of a .onnx or .qtm file; "-" reads .qtm bytes from standard input.

    Raises:
        FormatError: the bytes are damaged or are not what the ending says.
        QtoolError: the file cannot be read.
    """
    if os.fspath(path) == STDIO:
        from qtool.formats import qtm_file

        return qtm_file.loads(sys.stdin.buffer.read(), name="standard input")
    kind = ending(path)
    if not Path(path).is_file():
        problem = "is a folder" if Path(path).is_dir() else "there is no such file"
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
    """
    if os.fspath(path) == STDIO:
        from qtool.formats import qtm_file

        sys.stdout.buffer.write(qtm_file.dumps(model))
        sys.stdout.buffer.flush()
        return
    if ending(path) == ".qtm":
        from qtool.formats import qtm_file

        qtm_file.save(model, path)
    else:
        from qtool.formats import onnx_file

        onnx_file.save(model, path)


def ending(path: str | os.PathLike[str]) -> str:
    """Return the ending of path, one of ENDINGS.

    Raises:
        UsageError: it is none of them.
    """
    kind = Path(path).suffix.lower()
    if kind not in ENDINGS:
        found = f"ends in {kind!r}" if kind else "has no ending"
        raise UsageError(f"{os.fspath(path)} {found}; a model file ends in {' or '.join(ENDINGS)}")
    return kind
