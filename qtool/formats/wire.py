"""The weights of an ONNX protobuf, taken out of its bytes and put in, without holding them.

Protobuf's wire format is a list of fields: a varint tag (number * 8 + type), then the value.
Tensors sit in messages inside of messages, each with its length in front; so to take a weight
out means to rewrite the lengths around it, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, Protocol

import onnx

from qtool.errors import FormatError

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
CHILDREN = {  # message -> field number -> message in it that leads to tensors (onnx.proto)
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph"},
    "function": {7: "node", 11: "attribute"},
}
DATA_TYPE, FLOAT_DATA, RAW_DATA, EXTERNAL_DATA, DATA_LOCATION = 2, 4, 9, 13, 14
MAX_DEPTH = 100  # protobuf's own limit
MAX_FIELDS = 1 << 23
HERE = "\0here"  # the location of data that lies in the ONNX file itself
MIN_BYTES = 4096  # smaller data is left where it is


class Piece(Protocol):
    """Bytes, a memoryview, or something that stands for so many bytes."""

    def __len__(self) -> int:
        """Return how many bytes."""


class Field(NamedTuple):
    """One field of a message: its number and wire type, and where it and its value are."""

    number: int
    kind: int
    start: int
    value: int
    stop: int


Hook = Callable[[memoryview, int, int], "list[Piece] | None"]


def take_out(data: memoryview) -> bytes:
    """Return an ONNX model whose larger tensors only say where in data their values are.

    They are external data with the location HERE.

    Raises:
        FormatError: data is no protobuf message.
    """
    pieces = _Rewriter(data, _without_data).pieces(0, len(data), "model")
    return bytes(data) if pieces is None else b"".join(pieces)  # type: ignore[arg-type]


def put_in(model: bytes, values: Callable[[onnx.TensorProto], Piece | None]) -> list[Piece]:
    """Return an ONNX model in pieces, among them the values of the tensors that have some.

    values is asked for each tensor with external data; None leaves it external.
    """

    def with_data(data: memoryview, start: int, stop: int) -> list[Piece] | None:
        tensor = onnx.TensorProto.FromString(bytes(data[start:stop]))
        if not tensor.external_data or (value := values(tensor)) is None:
            return None
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")
        tail = onnx.TensorProto(metadata_props=tensor.metadata_props)  # the fields after raw_data
        if tensor.HasField("doc_string"):
            tail.doc_string = tensor.doc_string
        tensor.ClearField("metadata_props")
        tensor.ClearField("doc_string")
        head = tensor.SerializeToString() + _tag(RAW_DATA) + _varint(len(value))
        return [head, value, tail.SerializeToString()]

    data = memoryview(model)
    return _Rewriter(data, with_data).pieces(0, len(data), "model") or [model]


def _without_data(data: memoryview, start: int, stop: int) -> list[Piece] | None:
    found = list(fields(data, start, stop))
    numbers = [field.number for field in found]
    is_float = any(f.number == DATA_TYPE and data[f.value] == 1 for f in found)
    wanted = [f for f in found if f.number == RAW_DATA or (f.number == FLOAT_DATA and is_float)]
    if len(wanted) != 1 or EXTERNAL_DATA in numbers or DATA_LOCATION in numbers:
        return None
    (field,) = wanted
    length = field.stop - field.value
    if field.kind != BYTES or length < MIN_BYTES:
        return None
    place = onnx.TensorProto(data_location=onnx.TensorProto.EXTERNAL)
    for key, value in {"location": HERE, "offset": field.value, "length": length}.items():
        place.external_data.add(key=key, value=str(value))
    return [data[start : field.start], data[field.stop : stop], place.SerializeToString()]


class _Rewriter:
    """Rewrites the tensors of a message with a hook: None leaves one as it is."""

    def __init__(self, data: memoryview, hook: Hook) -> None:
        self._data = data
        self._hook = hook
        self._n_fields = 0

    def pieces(self, start: int, stop: int, kind: str, depth: int = 0) -> list[Piece] | None:
        """Return what data[start:stop] becomes, in pieces; None when nothing in it changes."""
        if depth > MAX_DEPTH:
            raise FormatError("is nested too deeply")
        pieces: list[Piece] = []
        done = start
        for field in fields(self._data, start, stop):
            self._n_fields += 1
            child = CHILDREN[kind].get(field.number)
            if child is None or field.kind != BYTES:
                continue
            if child == "tensor":
                new = self._hook(self._data, field.value, field.stop)
            else:
                new = self.pieces(field.value, field.stop, child, depth + 1)
            if new is not None:
                length = sum(map(len, new))
                pieces += [self._data[done : field.start], _tag(field.number) + _varint(length)]
                pieces += new
                done = field.stop
        if self._n_fields > MAX_FIELDS:
            raise FormatError(f"has more than {MAX_FIELDS} parts")
        return [*pieces, self._data[done:stop]] if pieces else None


def fields(data: memoryview, start: int, stop: int) -> Iterator[Field]:
    """Yield the fields of the message data[start:stop].

    Raises:
        FormatError: it is no message.
    """
    while start < stop:
        key, value = _read_varint(data, start, stop)
        kind = key & 7
        if kind == VARINT:
            end = _read_varint(data, value, stop)[1]
        elif kind == BYTES:
            length, value = _read_varint(data, value, stop)
            end = value + length
        elif kind in (FIXED32, FIXED64):
            end = value + (4 if kind == FIXED32 else 8)
        else:
            raise FormatError("is damaged")
        if end > stop or key >> 3 == 0:
            raise FormatError("is truncated or damaged")
        yield Field(key >> 3, kind, start, value, end)
        start = end


def _read_varint(data: memoryview, start: int, stop: int) -> tuple[int, int]:
    result = 0
    for position in range(start, min(start + 10, stop)):
        byte = data[position]
        result |= (byte & 127) << (7 * (position - start))
        if byte < 128:
            return result, position + 1
    raise FormatError("is truncated or damaged")


def _tag(number: int) -> bytes:
    return _varint(number << 3 | BYTES)


def _varint(value: int) -> bytes:
    digits = bytearray()
    while value > 127:
        digits.append(value & 127 | 128)
        value >>= 7
    return bytes([*digits, value])


def total(pieces: Iterable[Piece]) -> int:
    """Return the number of bytes of some pieces."""
    return sum(map(len, pieces))
