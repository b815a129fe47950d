"""Samples in the form of ONNX test data: test_data_set_*/input_*.pb, one sample per folder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qtool.data.inputs import Input, fits, shape_text
from qtool.data.samples import Item
from qtool.errors import DataError, FormatError

Array = npt.NDArray[Any]


class TestDataSets:
    """A source: every folder is a sample, whose arrays are fed as they are.

    input_K.pb is for the input of its name, or for input K where names do not match. The label
    is output_0.pb, where that is there.
    """

    kind = "samples"
    slow = False
    floats = True

    def __init__(
        self, folders: Sequence[Path], inputs: Sequence[Input], labels: bool | None
    ) -> None:
        self._folders, self._inputs, self._labels = folders, inputs, labels
        self.n: int | None = len(folders)

    def read(self, index: int) -> Item:
        """Return the arrays of folder index."""
        folder = self._folders[index]
        tensors = [_load(path) for path in _numbered(folder, "input_")]
        by_name = {name: array for name, array in tensors}
        if not all(target.name in by_name for target in self._inputs):
            if len(tensors) != len(self._inputs):
                raise DataError(
                    f"{folder} holds {len(tensors)} inputs; the model takes {len(self._inputs)}: "
                    f"{', '.join(t.name for t in self._inputs)}"
                )
            by_name = {t.name: a for t, (_, a) in zip(self._inputs, tensors, strict=True)}
        return Item(
            {t.name: by_name[t.name] for t in self._inputs},
            frozenset(),
            self._label(folder),
            str(folder),
        )

    def items(self) -> Iterator[Item]:
        """Yield all folders' samples."""
        yield from map(self.read, range(len(self._folders)))

    def check(self, order: Sequence[int]) -> None:
        """Raise DataError naming the first folder whose arrays do not fit the model."""
        for index in order:
            item = self.read(index)
            for target in self._inputs:
                array = item.feeds[target.name]
                if target.shape is not None and not fits(array.shape, target.shape):
                    raise DataError(
                        f"{item.where}: shape {shape_text(array.shape)} does not fit input {target}"
                    )

    def integers(self, name: str) -> bool:
        """Return False: they are what the model takes."""
        return False

    def labels(self, order: Sequence[int]) -> Array | None:
        """Return None: they are arrays, one per folder."""
        return None

    def _label(self, folder: Path) -> Array | None:
        files = _numbered(folder, "output_") if self._labels is not False else []
        if not files and self._labels:
            raise DataError(f"{folder} has no output_0.pb, which would be the label")
        return _load(files[0])[1] if files else None


def data_sets(folder: Path) -> list[Path]:
    """Return the folders test_data_set_* of a folder, in the order of their numbers, or itself."""
    found = [p for p in folder.glob("test_data_set_*") if _numbered(p, "input_")]
    if not found and _numbered(folder, "input_"):
        return [folder]
    return sorted(found, key=lambda p: (_number(p.name), p.name))


def _numbered(folder: Path, prefix: str) -> list[Path]:
    return sorted(folder.glob(f"{prefix}*.pb"), key=lambda p: (_number(p.stem), p.name))


def _number(name: str) -> int:
    digits = name.rpartition("_")[2]
    return int(digits) if digits.isdecimal() else -1


def _load(path: Path) -> tuple[str, Array]:
    """Return the name and values of a TensorProto file."""
    import onnx
    from onnx import numpy_helper

    tensor = onnx.TensorProto()
    try:
        tensor.ParseFromString(path.read_bytes())
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            raise FormatError(f"{path} keeps its values in another file; write them into it")
        return tensor.name, np.asarray(numpy_helper.to_array(tensor))
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from None
    except FormatError:
        raise
    except Exception as error:  # protobuf and numpy raise many kinds on damaged bytes
        raise FormatError(f"{path} is not an ONNX tensor: {error}") from None
