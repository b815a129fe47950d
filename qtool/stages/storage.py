"""storage: how a packed file stores each tensor, and how small that is beside other ways."""

from __future__ import annotations

import lzma
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from qtool import _native
from qtool.codecs.streams import bytes_of, item_bytes
from qtool.formats import onnx_file
from qtool.formats.packed import values_of
from qtool.formats.tensors import StoredTensor, replace_tensors
from qtool.model import Json, Model

COMPARED_BYTES = 1 << 24  # of larger models zip and xz are not made: they take a second per MiB


@dataclass(frozen=True)
class StoredWeight:
    """How one tensor is stored."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    codecs: str  # "codebook(planes(raw, rans), rans)"
    stored_bytes: int
    bits: float  # per element, as stored
    entropy: float  # bits per element, of the distinct values of this tensor
    share: float  # of the file, 0..1

    def to_json(self) -> dict[str, Json]:
        """Return the tensor as a JSON object."""
        return {**vars(self), "shape": list(self.shape)}


@dataclass(frozen=True)
class Storage:
    """How a packed file stores a model."""

    file_bytes: int
    n_elements: int  # of the tensors in the table
    tensors: tuple[StoredWeight, ...]
    zip_bytes: int | None  # of the same model as .onnx; None where it is large
    xz_bytes: int | None

    def ratios(self) -> dict[str, float]:
        """Return how many times the file is smaller than each other way to store the model."""
        others = {
            "float32": 4 * self.n_elements,
            "int8": self.n_elements,
            "zip": self.zip_bytes,
            "xz": self.xz_bytes,
        }
        return {name: n / self.file_bytes for name, n in others.items() if n is not None}

    def to_json(self) -> dict[str, Json]:
        """Return the storage as a JSON object."""
        rows = [tensor.to_json() for tensor in self.tensors]
        return {**vars(self), "tensors": rows, "ratios": self.ratios()}


def storage(model: Model) -> Storage | None:
    """Return how the file that a model comes from stores it; None if it is not packed.

    Raises:
        FormatError: a tensor is damaged.
    """
    found = list(_stored(model))
    if not any(tensor.is_encoded for tensor in found):
        return None
    rows = tuple(sorted(map(_row, found), key=lambda row: (-row.stored_bytes, row.name)))
    sizes: tuple[int | None, int | None] = (None, None)
    if sum(tensor.nbytes for tensor in found) <= COMPARED_BYTES:
        plain = onnx_file.dumps(model)
        sizes = len(zlib.compress(plain, 9)), len(lzma.compress(plain, preset=9))
    elements = sum(int(tensor.size) for tensor in found)
    return Storage(found[0].file_bytes, elements, rows, *sizes)


def _stored(model: Model) -> Iterator[StoredTensor]:
    """Yield the tensors of the table, those that share bytes once."""
    found: dict[object, StoredTensor] = {}

    def collect(tensor: ir.TensorProtocol) -> None:
        if isinstance(tensor, StoredTensor):
            found.setdefault(tensor.place, tensor)

    replace_tensors(model.ir, collect)
    yield from found.values()


def _row(tensor: StoredTensor) -> StoredWeight:
    size = max(int(tensor.size), 1)
    return StoredWeight(
        tensor.name or "",
        tensor.dtype.name.lower(),
        tuple(tensor.shape.numpy()),
        tensor.chain(),
        tensor.stored_bytes,
        8 * tensor.stored_bytes / size,
        _entropy(tensor) / size,
        tensor.stored_bytes / tensor.file_bytes,
    )


def _entropy(tensor: StoredTensor) -> float:
    """Return the order-0 entropy of all elements, in bits; packed elements count as bytes."""
    values = values_of(tensor)
    data = bytes_of(values)
    if item_bytes(values.dtype) == 1 or data.size == 0:
        return float(_native.entropy(data)) / 65536 if data.size else 0.0
    _, counts = np.unique(data.view(f"<u{item_bytes(values.dtype)}"), return_counts=True)
    return float((counts * np.log2(counts.sum() / counts)).sum())
