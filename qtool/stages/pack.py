"""pack, unpack: how a model is stored. Its tensors stay the same, bit for bit."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from qtool import formats
from qtool.formats.tensors import total_bytes
from qtool.model import Json, Model


@dataclass(frozen=True)
class Packing:
    """What packing made of a model; n_bytes is None where it went to a pipe."""

    n_bytes: int | None  # of the file
    weight_bytes: int  # of all tensors, unpacked

    @property
    def ratio(self) -> float | None:
        """How many times smaller the file is than the tensors."""
        return self.weight_bytes / self.n_bytes if self.n_bytes else None

    def to_json(self) -> dict[str, Json]:
        """Return the packing as a JSON object."""
        return {**vars(self), "ratio": self.ratio}


def pack(
    model: Model,
    path: str | os.PathLike[str],
    *,
    max: bool = False,
    threads: int | None = None,
    progress: Callable[[Iterable[Any], str, int | None], Iterable[Any]] | None = None,
) -> Packing:
    """Save the model as a packed .qtm: each tensor with the codec that makes it smallest.

    max also tries arithmetic coding, which takes about a second for each million weights, to
    pack and to load. The bytes are the same for any number of threads. formats.load reads the
    file as any other; unpack, or formats.save, writes it plain again.

    Raises:
        UsageError: path is no .qtm.
        QtoolError: the file cannot be written.
    """
    more = {} if progress is None else {"progress": progress}
    formats.pack(model, path, max=max, threads=threads, **more)
    is_file = os.fspath(path) != formats.STDIO
    return Packing(os.path.getsize(path) if is_file else None, total_bytes(model.ir))


def unpack(model: Model, path: str | os.PathLike[str]) -> None:
    """Save the model with its tensors as they are, to a .onnx or .qtm.

    Raises:
        FormatError: a packed tensor is damaged.
        QtoolError: the file cannot be written.
    """
    formats.save(model, path)
