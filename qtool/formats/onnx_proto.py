"""ONNX protobuf bytes -> onnx_ir model, checked, its larger tensors left where they are."""

from __future__ import annotations

import logging
from collections.abc import Callable

import onnx
import onnx_ir as ir

from qtool.errors import FormatError, ModelError, QtoolError
from qtool.formats import validate
from qtool.formats.looks_like import ONNX, looks_like
from qtool.formats.quoted import quoted
from qtool.formats.tensors import all_graphs

# What onnx_ir would say about models that break the rules, validate says better.
logging.getLogger("onnx_ir").addHandler(logging.NullHandler())


def parse(
    data: bytes | memoryview,
    where: str,
    sizes: Callable[[str], int] | None,
    put: Callable[[ir.Model], object] = lambda model: None,
) -> ir.Model:
    """Return the model; tensors with external data are ir.ExternalTensor, not looked up.

    where begins every message; sizes(location) is the size of a file of external data. Without
    sizes, external data has no location. put(model) may replace tensors while the nodes are still
    in the order of the file.

    Raises:
        FormatError: data is no protobuf, or the external data is not there.
        ModelError, UnsupportedError: see validate.check_model.
    """
    proto = _decode(bytes(data), where)
    try:
        is_sorted = validate.check_model(proto, where, sizes)
        model = ir.serde.deserialize_model(proto)
    except (QtoolError, MemoryError):
        raise
    except RecursionError as error:
        raise FormatError(f"{where}: is nested too deeply") from error
    except Exception as error:  # onnx_ir says in many ways that it cannot read something
        raise ModelError(f"{where}: onnx_ir cannot read the model: {_root(error)}") from error
    put(model)
    if not is_sorted:
        _sort(model, where)
    return model


def _decode(data: bytes, where: str) -> onnx.ModelProto:
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except MemoryError:
        raise
    except Exception as error:  # each implementation of protobuf has its own
        raise not_onnx(data, where) from error
    if not proto.HasField("graph"):
        raise not_onnx(data, where)
    return proto


def not_onnx(data: bytes | memoryview, where: str) -> FormatError:
    """Return the error that says that data is no ONNX model, and what it looks like."""
    kind = looks_like(bytes(data[:512]))
    if kind == ONNX:
        return FormatError(f"{where}: is a damaged or truncated ONNX model; get it again")
    found = f"; it looks like {kind}" if kind else ""
    return FormatError(f"{where}: is not an ONNX model{found}")


def serialize(model: ir.Model, *, locations: bool = True) -> bytes:
    """Return the model as the bytes of an ONNX protobuf, the same for the same model.

    Without locations, external data does not say where it is.
    """
    proto = ir.to_proto(model)
    proto.graph.SetInParent()  # an empty one is there, too
    _drop_known_types(proto.graph)
    if not locations:
        for nodes in (proto.graph, *proto.functions):
            _drop_locations(nodes)
    return bytes(proto.SerializeToString(deterministic=True))


def _drop_known_types(graph: onnx.GraphProto) -> None:
    """Remove what onnx_ir adds: types of initializers that only repeat the initializer's."""
    known = {tensor.name: (tensor.data_type, tuple(tensor.dims)) for tensor in graph.initializer}
    for index in reversed(range(len(graph.value_info))):
        info = graph.value_info[index]
        tensor = info.type.tensor_type
        said = (tensor.elem_type, tuple(d.dim_value for d in tensor.shape.dim))
        plain = not (info.doc_string or info.metadata_props or info.type.denotation)
        if plain and known.get(info.name) == said:
            del graph.value_info[index]
    for node in graph.node:
        for attribute in node.attribute:
            for subgraph in (attribute.g, *attribute.graphs) if attribute.type in (5, 10) else ():
                _drop_known_types(subgraph)


def _drop_locations(graph: onnx.GraphProto | onnx.FunctionProto) -> None:
    tensors = [] if isinstance(graph, onnx.FunctionProto) else list(graph.initializer)
    for node in graph.node:
        for attribute in node.attribute:
            tensors += [attribute.t, *attribute.tensors] if attribute.type in (4, 9) else []
            for subgraph in (attribute.g, *attribute.graphs) if attribute.type in (5, 10) else ():
                _drop_locations(subgraph)
    for tensor in tensors:
        del tensor.external_data[:]


def _sort(model: ir.Model, where: str) -> None:
    """Put the nodes into an order in which they can run."""
    try:
        model.graph.sort()
        for function in model.functions.values():
            function.graph.sort()
    except ValueError as error:
        raise ModelError(f"{where}: the graph has a cycle: {_cyclic(model)}") from error


def _cyclic(model: ir.Model) -> str:
    """Return the name of a node that uses what only a later node makes."""
    for graph in all_graphs(model):
        made: set[ir.Value | None] = set()
        for node in graph:
            for value in node.inputs:
                producer = None if value is None else value.producer()
                if producer is not None and producer.graph is graph and value not in made:
                    name = "" if value is None else value.name
                    return f"node {quoted(node.name)} ({quoted(node.op_type)}) needs {quoted(name)}"
            made.update(node.outputs)
    return "a subgraph needs what its own node makes"


def _root(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return quoted(str(error))
