"""Tensors that stay in the file they come from, and the walk over all tensors of a model."""

from __future__ import annotations

import math
import weakref
import zlib
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx_ir as ir

from qtool import codecs
from qtool.errors import FormatError, ModelError
from qtool.formats import mapping
from qtool.formats.quoted import quoted

RAW: Sequence[codecs.Link] = ({"id": 0},)
MAX_BYTES = 1 << 50
KEPT_BYTES = 1 << 16  # decoded values of so many bytes are kept; larger ones while in use


class StoredTensor(ir.LazyTensor):
    """A tensor whose bytes lie in data[start : start + length], a mapped file or bytes.

    Every use maps the values anew and gives the pages back afterwards, so the memory of a stage
    that looks at one tensor after the other is that of the largest tensor. The checksum is
    checked before the first use. crc is None where the file has none; where names file and
    tensor. Encoded values are decoded once for all that use them at the same time; common is what
    codecs.decode needs besides.

    Raises (on use):
        FormatError: the bytes are damaged; the message names file and tensor.
    """

    __slots__ = (
        "_checked", "_common", "_crc", "_data", "_kept", "_length", "_links", "_named", "_start",
    )  # fmt: skip

    def __init__(
        self,
        data: memoryview,
        start: int,
        length: int,
        dtype: ir.DataType,
        shape: Sequence[int] | ir.Shape,
        *,
        where: tuple[str, str],
        links: Sequence[codecs.Link] = RAW,
        common: Mapping[str, Any] = MappingProxyType({}),
        crc: int | None = None,
        **named: Any,
    ) -> None:
        if not isinstance(shape, ir.Shape):
            shape = ir.Shape(shape)
        super().__init__(self._value, dtype, shape, **named)
        self._data, self._start, self._length = data, start, length
        self._named, self._links, self._common, self._crc = where, links, common, crc
        self._checked = crc is None
        self._kept: Callable[[], Any] = lambda: None

    @property
    def place(self) -> tuple[int, int, int]:
        """The same for two tensors whose bytes are the same ones."""
        return id(self._data.obj), self._start, self._length

    @property
    def _where(self) -> str:
        file, name = self._named
        return f"{file}: tensor {quoted(name)}"

    def check(self) -> None:
        """Check the stored bytes against their checksum, once."""
        if self._checked:
            return
        crc = 0
        for chunk in mapping.pieces(self._data, self._start, self._length):
            crc = zlib.crc32(chunk, crc)
        if crc != self._crc:
            raise FormatError(f"{self._where} is damaged (checksum); get the file again")
        self._checked = True

    def chunks(self) -> Iterator[bytes | memoryview]:
        """Yield the bytes as ONNX lays them out, in pieces, one piece in memory at a time."""
        self.check()
        if not self.is_encoded:
            yield from mapping.pieces(self._data, self._start, self._length)
        else:
            yield self._value().tobytes()

    @property
    def is_encoded(self) -> bool:
        """Whether the bytes in the file are not the values themselves."""
        return len(self._links) > 1 or self._links[0]["id"] != 0

    @property
    def stored_bytes(self) -> int:
        """The bytes in the file."""
        return self._length

    @property
    def file_bytes(self) -> int:
        """The bytes of the whole file."""
        return len(self._data)

    def chain(self) -> str:
        """Return the names of the codecs, such as "codebook(planes(raw, rans), rans)"."""
        stored = mapping.view(self._data, self._start, self._length).data
        return codecs.chain(stored, self._links)

    def _value(self) -> ir.TensorProtocol:
        try:
            values = self._decoded()
            if self.dtype.bitwidth < 8:
                return ir.PackedTensor(values, self.dtype, shape=self.shape, name=self.name)
            return ir.Tensor(values, self.dtype, name=self.name)
        except (FormatError, ValueError) as error:  # ValueError: a 6-bit value with 7 bits
            raise FormatError(f"{self._where}: {error}") from error

    def _decoded(self) -> Any:
        self.check()
        values = self._kept()
        if values is not None:
            return values
        stored = mapping.view(self._data, self._start, self._length).data
        dtype, elements = _layout(self.dtype, self.shape.numpy())
        values = codecs.decode(stored, self._links, dtype, elements, **self._common)
        if self.is_encoded:
            values.flags.writeable = False
            small = values.nbytes <= KEPT_BYTES
            self._kept = (lambda: values) if small else weakref.ref(values)
        return values


def _layout(dtype: ir.DataType, shape: Sequence[int]) -> tuple[np.dtype[Any], tuple[int, ...]]:
    """Return dtype and shape of the array that codecs see: packed bytes for types under 8 bits."""
    if dtype.bitwidth < 8:
        return np.dtype(np.uint8), (n_bytes(dtype, shape),)
    return np.dtype(dtype.numpy()), tuple(shape)


def n_bytes(dtype: ir.DataType, shape: Sequence[int]) -> int:
    """Return the size of a tensor as ONNX stores it; elements under 8 bits are packed."""
    return (math.prod(shape) * dtype.bitwidth + 7) // 8


def chunks(tensor: ir.TensorProtocol, length: int) -> Iterator[bytes | memoryview]:
    """Yield the bytes of a tensor as ONNX lays them out; they must be length in total.

    Raises:
        ModelError: they are not: the tensor's data does not fit its shape.
    """
    found = 0
    for chunk in tensor.chunks() if isinstance(tensor, StoredTensor) else [values_view(tensor)]:
        found += len(chunk)
        yield chunk
    if found != length:
        raise ModelError(
            f"tensor {tensor.name!r} has {found} bytes of data; its shape needs {length}"
        )


def values_view(tensor: ir.TensorProtocol) -> bytes | memoryview:
    """Return the bytes of a tensor as ONNX lays them out, not copied where possible."""
    if isinstance(tensor, ir.Tensor) and tensor.dtype.bitwidth >= 8:
        values = tensor.numpy()
        if values.flags.c_contiguous and values.dtype.isnative:
            return values.reshape(-1).view(np.uint8).data
    return tensor.tobytes()


def is_large(tensor: ir.TensorProtocol, n_least: int) -> bool:
    """Return whether a tensor is stored apart from the graph: it has n_least bytes or more.

    Strings never are; what lies in another file always is.
    """
    if tensor.dtype == ir.DataType.STRING:
        return False
    size = n_bytes(tensor.dtype, tensor.shape.numpy())
    return size >= n_least or (isinstance(tensor, ir.ExternalTensor) and size > 0)


def reference(
    tensor: ir.TensorProtocol, location: str, offset: int, length: int
) -> ir.ExternalTensor:
    """Return what stands for a tensor in a graph whose data is elsewhere."""
    return ir.ExternalTensor(
        location,
        offset,
        length,
        tensor.dtype,
        shape=ir.Shape(tensor.shape.numpy()),
        name=tensor.name or "",
        doc_string=tensor.doc_string,
        metadata_props=dict(tensor.metadata_props),
    )


def all_graphs(model: ir.Model) -> Iterator[ir.Graph]:
    """Yield the main graph, the functions' graphs and all their subgraphs."""
    yield from model.graphs()
    for function in model.functions.values():
        yield function.graph
        yield from function.graph.subgraphs()


def replace_tensors(
    model: ir.Model, new: Callable[[ir.TensorProtocol], ir.TensorProtocol | None]
) -> None:
    """Put new(tensor) in the place of each tensor for which it is not None.

    Visits initializers and tensor attributes, in subgraphs and functions too, always in the
    same order: that of the file.
    """
    for graph in all_graphs(model):
        for value in graph.initializers.values():
            if value.const_value is not None:
                value.const_value = new(value.const_value) or value.const_value
        for node in graph:
            _replace_attributes(node.attributes, new)


def replace_in_order(
    model: ir.Model, new: Callable[[ir.TensorProtocol], ir.TensorProtocol | None]
) -> None:
    """Put new(tensor) in the place of each tensor for which it is not None.

    The order is that of packed files: of a graph first the initializers, then the attributes of
    its nodes, a subgraph where it is met; functions come after the main graph.
    """

    def visit(graph: ir.Graph) -> None:
        for value in graph.initializers.values():
            if value.const_value is not None:
                value.const_value = new(value.const_value) or value.const_value
        for node in graph:
            if not node.attributes:
                continue
            _replace_attributes(node.attributes, new)
            for attr in node.attributes.values():
                if attr.type == ir.AttributeType.GRAPH and not attr.is_ref():
                    visit(attr.value)
                elif attr.type == ir.AttributeType.GRAPHS and not attr.is_ref():
                    for graph_of in attr.value:
                        visit(graph_of)

    visit(model.graph)
    for function in model.functions.values():
        visit(function.graph)


def _replace_attributes(
    attributes: MutableMapping[str, ir.Attr],
    new: Callable[[ir.TensorProtocol], ir.TensorProtocol | None],
) -> None:
    for name, attr in list(attributes.items()):
        if attr.is_ref():
            continue
        if attr.type == ir.AttributeType.TENSOR and (one := new(attr.value)) is not None:
            attributes[name] = ir.AttrTensor(name, one, attr.doc_string)
        if attr.type == ir.AttributeType.TENSORS:
            many = [new(tensor) or tensor for tensor in attr.value]
            attributes[name] = ir.AttrTensors(name, many, attr.doc_string)


def total_bytes(model: ir.Model) -> int:
    """Return the bytes of all tensors but strings, one that is used twice counted once."""
    sizes: dict[object, int] = {}

    def add(tensor: ir.TensorProtocol) -> None:
        if tensor.dtype != ir.DataType.STRING:
            place = tensor.place if isinstance(tensor, StoredTensor) else id(tensor)
            sizes[place] = n_bytes(tensor.dtype, tensor.shape.numpy())

    replace_tensors(model, add)
    return sum(sizes.values())
