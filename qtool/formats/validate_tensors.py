"""Checks of a TensorProto: that type, shape and data agree, before memory is taken."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import onnx
import onnx_ir as ir

from qtool.errors import FormatError, ModelError
from qtool.formats.quoted import quoted
from qtool.formats.tensors import n_bytes

MAX_RANK = 32  # what numpy 1 can have
MAX_BYTES = 1 << 50
ELEMENT_TYPES = frozenset(ir.DataType)
SIX_BITS = frozenset(t for t in ir.DataType if t.name.startswith("FLOAT6"))
FIELDS = (
    "raw_data", "float_data", "int32_data", "string_data", "int64_data", "double_data",
    "uint64_data",
)  # fmt: skip
FIELD_OF = {
    "FLOAT": "float_data", "COMPLEX64": "float_data", "STRING": "string_data",
    "INT64": "int64_data", "DOUBLE": "double_data", "COMPLEX128": "double_data",
    "UINT32": "uint64_data", "UINT64": "uint64_data",
}  # fmt: skip
EXTERNAL_KEYS = {"location", "offset", "length", "checksum", "basepath"}


@dataclass(frozen=True)
class Reference:
    """Where the data of a tensor lies outside of the ONNX file; length is exact."""

    location: str
    offset: int
    length: int


def check_tensor(tensor: onnx.TensorProto, where: str, sizes: Callable[[str], int] | None) -> None:
    """Check a tensor; sizes(location) is the size of a file of external data.

    Without sizes, external data has no location.

    Raises:
        ModelError: type, shape and data do not agree.
        FormatError: external data is not there or too short.
    """
    where = f"{where}: tensor {quoted(tensor.name)}"
    _check_texts(tensor, where)
    if tensor.data_type == ir.DataType.UNDEFINED or tensor.data_type not in ELEMENT_TYPES:
        raise ModelError(f"{where} has the unknown element type {tensor.data_type}")
    dtype = ir.DataType(tensor.data_type)
    check_dims(tensor.dims, where, MAX_BYTES)
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        _check_external(tensor, dtype, where, sizes)
    elif tensor.external_data:
        raise ModelError(f"{where} has external data but says that it has none")
    else:
        _check_inline(tensor, dtype, where)


def check_dims(dims: Sequence[int], where: str, most: int) -> None:
    """Refuse negative dims, absurd ranks and absurd products."""
    if any(d < 0 for d in dims):
        raise ModelError(f"{where} has a negative dimension: {list(dims)[:8]}")
    if len(dims) > MAX_RANK or math.prod(dims) > most or max(dims, default=0) > most:
        raise ModelError(f"{where} has an absurd shape: {list(dims)[:8]}")


def reference(tensor: onnx.TensorProto, where: str) -> Reference:
    """Return where the external data of a tensor lies.

    Raises:
        ModelError: the entries are not those of ONNX.
    """
    entries = {entry.key: entry.value for entry in tensor.external_data}
    unknown = set(entries) - EXTERNAL_KEYS
    if len(entries) != len(tensor.external_data) or unknown or not entries.get("location"):
        raise ModelError(f"{where} has external data entries that are wrong: {sorted(entries)[:6]}")
    needed = n_bytes(ir.DataType(tensor.data_type), tensor.dims)
    offset = _number(entries.get("offset", "0"), "offset", where)
    length = _number(entries.get("length", str(needed)), "length", where)
    if length != needed:
        raise ModelError(f"{where} has {length} bytes of external data; its shape needs {needed}")
    return Reference(entries["location"], offset, length)


def _number(text: str, key: str, where: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(MAX_BYTES))):
        raise ModelError(f"{where} has an external {key} of {quoted(text)}")
    return int(text)


def _check_external(
    tensor: onnx.TensorProto, dtype: ir.DataType, where: str, sizes: Callable[[str], int] | None
) -> None:
    if dtype == ir.DataType.STRING or any(_count(tensor, field) for field in FIELDS):
        raise ModelError(f"{where} has data both inside and outside of the file, or strings")
    if sizes is None:
        if tensor.external_data:
            raise ModelError(f"{where} says where its data is; only its row can")
        return
    place = reference(tensor, where)
    try:
        size = sizes(place.location)
    except FormatError as error:
        raise FormatError(f"{where}: {error}") from error
    if place.offset + place.length > size:
        raise FormatError(
            f"{where} needs bytes {place.offset} to {place.offset + place.length} of "
            f"{quoted(place.location)}, which has {size}: truncated? get it again"
        )


def _check_inline(tensor: onnx.TensorProto, dtype: ir.DataType, where: str) -> None:
    fields = [field for field in FIELDS if _count(tensor, field)]
    if len(fields) > 1 or (tensor.HasField("raw_data") and fields not in ([], ["raw_data"])):
        raise ModelError(f"{where} has data in more than one field: {', '.join(fields)}")
    field = fields[0] if fields else "raw_data"
    if field != "raw_data" and field != FIELD_OF.get(dtype.name, "int32_data"):
        raise ModelError(f"{where} is {dtype.name.lower()} but has its data in {field}")
    if dtype == ir.DataType.STRING and field == "raw_data" and tensor.HasField("raw_data"):
        raise ModelError(f"{where} is of strings but has raw_data")
    found, needed = _count(tensor, field), _needed(dtype, tensor.dims, field)
    if found != needed:
        unit = "bytes" if field == "raw_data" else "values"
        raise ModelError(f"{where} has {found} {unit} of data; its shape needs {needed}")
    if dtype in SIX_BITS:
        try:
            ir.serde.deserialize_tensor(tensor).tobytes()
        except Exception as error:
            raise ModelError(f"{where} has bits set that a 6-bit value cannot have") from error


def _needed(dtype: ir.DataType, dims: Sequence[int], field: str) -> int:
    """Return how many values a field must have for this shape."""
    size = math.prod(dims)
    if dtype == ir.DataType.STRING:
        return size
    if field == "raw_data":
        return n_bytes(dtype, dims)
    if dtype.name.startswith("COMPLEX"):
        return 2 * size
    return n_bytes(dtype, dims) if dtype.bitwidth in (2, 4) else size


def _count(tensor: onnx.TensorProto, field: str) -> int:
    return len(getattr(tensor, field))


def _check_texts(tensor: onnx.TensorProto, where: str) -> None:
    texts = [tensor.name, tensor.doc_string]
    for entry in (*tensor.external_data, *tensor.metadata_props):
        texts += [entry.key, entry.value]
    if any(isinstance(text, bytes) for text in texts):
        raise ModelError(f"{where} has text that is not UTF-8")
