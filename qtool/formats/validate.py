"""Checks of an ONNX protobuf before anything is built from it: names, order, types, nesting.

What passes can be turned into an onnx_ir model, cloned, and written again. Tensors are checked
by validate_tensors, which this module calls.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import onnx
import onnx.defs
import onnx_ir as ir

from qtool.errors import ModelError, UnsupportedError
from qtool.formats.quoted import quoted
from qtool.formats.validate_tensors import ELEMENT_TYPES, check_dims, check_tensor

OLDEST_OPSET = 7
MAX_DEPTH = 30  # of nested subgraphs; protobuf itself stops at 33
MAX_ELEMENTS = 1 << 48  # of a declared shape

# Location of external data -> its size, or raises FormatError; None: it has no location.
Sizes = Callable[[str], int] | None
Attribute = onnx.AttributeProto
DEFAULT_DOMAINS = ("", "ai.onnx")
ATTRIBUTE_TYPES = frozenset(ir.AttributeType)


def check_model(proto: onnx.ModelProto, where: str, sizes: Sizes) -> bool:
    """Return whether all nodes are in an order in which they can run.

    where begins every message; sizes finds the files of external data.

    Raises:
        ModelError: the model breaks the rules of ONNX.
        UnsupportedError: it uses a part of ONNX that qtool does not know.
        FormatError: external data is not there.
    """
    _check_text(proto, where)
    _check_versions(proto, where)
    check = _Check(where, sizes)
    check.graph(proto.graph, [])
    functions = {(f.domain, f.name, f.overload): f for f in proto.functions}
    if len(functions) != len(proto.functions):
        raise ModelError(f"{where}: two functions have the same name")
    for function in proto.functions:
        check.function(function)
    _check_calls(functions, where)
    return check.is_sorted


def _check_versions(proto: onnx.ModelProto, where: str) -> None:
    if not proto.HasField("graph") or proto.ir_version < 1:
        raise ModelError(f"{where}: has no graph or no ir_version; it is not an ONNX model")
    if proto.ir_version > onnx.IR_VERSION:
        raise UnsupportedError(
            f"{where}: has ONNX IR version {proto.ir_version}; the installed onnx knows up to "
            f"{onnx.IR_VERSION}: upgrade onnx"
        )
    versions: dict[str, int] = {}
    for opset in proto.opset_import:
        domain = "" if opset.domain in DEFAULT_DOMAINS else opset.domain
        if versions.setdefault(domain, opset.version) != opset.version:
            raise ModelError(f"{where}: imports two opsets of domain {quoted(domain)}")
    newest = onnx.defs.onnx_opset_version()
    if not OLDEST_OPSET <= versions.get("", OLDEST_OPSET) <= newest:
        raise UnsupportedError(
            f"{where}: is of opset {versions['']}; qtool reads {OLDEST_OPSET} to {newest}: "
            "convert it with onnx.version_converter, or upgrade onnx"
        )
    if not versions:
        raise ModelError(f"{where}: imports no opset; it is not an ONNX model")


class _Scope:
    """The names that a graph makes: all of them, and those made so far."""

    def __init__(self) -> None:
        self.made: set[str] = set()
        self.all: set[str] = set()


class _Check:
    """Walks the graphs of one model."""

    def __init__(self, where: str, sizes: Sizes) -> None:
        self._where = where
        self._sizes = sizes
        self._in_function = False
        self.is_sorted = True

    def graph(self, graph: onnx.GraphProto, outer: Sequence[_Scope]) -> None:
        """Check a graph whose nodes may also use what the outer scopes make."""
        if len(outer) >= MAX_DEPTH:
            raise UnsupportedError(f"{self._where}: subgraphs are nested {len(outer)} deep")
        if graph.sparse_initializer:
            raise UnsupportedError(f"{self._where}: has sparse initializers; make them dense")
        scope = _Scope()
        self._declare(scope.made, (v.name for v in graph.input), "graph input")
        initializers: set[str] = set()
        self._declare(initializers, (t.name for t in graph.initializer), "initializer")
        scope.made |= initializers
        for tensor in graph.initializer:
            check_tensor(tensor, self._where, self._sizes)
        for value in (*graph.input, *graph.output, *graph.value_info):
            self._type(value.type, f"{self._where}: tensor {quoted(value.name)}")
        self._nodes(graph.node, [*outer, scope])
        self._outputs([v.name for v in graph.output], scope)

    def function(self, function: onnx.FunctionProto) -> None:
        """Check a function, which sees nothing but its inputs."""
        self._in_function = True
        scope = _Scope()
        self._declare(scope.made, function.input, "function input")
        self._attributes(function.attribute_proto, [scope], f"function {quoted(function.name)}")
        self._nodes(function.node, [scope])
        self._outputs(list(function.output), scope)

    def _nodes(self, nodes: Sequence[onnx.NodeProto], scopes: Sequence[_Scope]) -> None:
        scope = scopes[-1]
        scope.all |= scope.made
        outputs = (name for node in nodes for name in node.output if name)
        self._declare(scope.all, outputs, "output")
        for node in nodes:
            label = f"node {quoted(node.name)} ({quoted(node.op_type)})"
            if not node.op_type:
                raise ModelError(f"{self._where}: {label} has no op type")
            _check_devices(node, f"{self._where}: {label}")
            for name in filter(None, node.input):
                self._use(name, label, scopes)
            self._attributes(node.attribute, scopes, label)
            while node.output and not node.output[-1]:
                node.output.pop()  # one without a name, at the end, is the same as none
            scope.made.update(node.output)

    def _use(self, name: str, label: str, scopes: Sequence[_Scope]) -> None:
        for scope in reversed(scopes):
            if name in scope.all:
                self.is_sorted &= name in scope.made
                return
        raise ModelError(f"{self._where}: {label} needs {quoted(name)}, which nothing produces")

    def _declare(self, names: set[str], new: Iterable[str], kind: str) -> None:
        for name in new:
            if not name:
                raise ModelError(f"{self._where}: {kind} without a name")
            if name in names:
                raise ModelError(f"{self._where}: {kind} {quoted(name)} is defined twice")
            names.add(name)

    def _outputs(self, names: Sequence[str], scope: _Scope) -> None:
        for name in names:
            if name not in scope.all:
                raise ModelError(f"{self._where}: output {quoted(name)} is made by no node")
        if len(set(names)) != len(names):
            raise ModelError(f"{self._where}: an output is listed twice: {quoted(names[0])}")

    def _attributes(
        self, attributes: Iterable[onnx.AttributeProto], scopes: Sequence[_Scope], label: str
    ) -> None:
        names: set[str] = set()
        for attribute in attributes:
            self._declare(names, [attribute.name], f"attribute of {label}")
            where = f"{self._where}: attribute {quoted(attribute.name)} of {label}"
            if attribute.ref_attr_name:
                if not self._in_function:
                    raise ModelError(f"{where} refers to a function's, but is in none")
                continue
            _check_attribute_type(attribute, where)
            for tensor in _tensors(attribute):
                check_tensor(tensor, where, self._sizes)
            for type_proto in _types(attribute):
                self._type(type_proto, where)
            for graph in _graphs(attribute):
                self.graph(graph, scopes)

    def _type(self, type_proto: onnx.TypeProto, where: str) -> None:
        kind = type_proto.WhichOneof("value")
        if kind in ("sequence_type", "optional_type"):
            inner = getattr(type_proto, kind)
            if not inner.HasField("elem_type") or inner.elem_type.WhichOneof("value") is None:
                raise ModelError(f"{where}: has a sequence type without an element type")
            self._type(inner.elem_type, where)
        elif kind in ("map_type", "opaque_type"):
            raise UnsupportedError(f"{where}: has a {kind}, which qtool does not read")
        elif kind is not None:
            tensor = getattr(type_proto, kind)
            if tensor.elem_type == ir.DataType.UNDEFINED:
                type_proto.Clear()  # says nothing, and onnx_ir would lose half of it later
                return
            if tensor.elem_type not in ELEMENT_TYPES:
                raise ModelError(f"{where}: has the unknown element type {tensor.elem_type}")
            _clear_unknown(tensor.shape)
            check_dims([d.dim_value for d in tensor.shape.dim], where, MAX_ELEMENTS)


def _clear_unknown(shape: onnx.TensorShapeProto) -> None:
    """Make dims of -1 unknown: older exporters write unknown ones so."""
    for dim in shape.dim:
        if dim.dim_value == -1:
            dim.ClearField("dim_value")


def _check_devices(node: onnx.NodeProto, where: str) -> None:
    """Refuse multi-device annotations that onnx_ir reads but cannot write."""
    for configuration in getattr(node, "device_configurations", ()):  # since onnx 1.18
        specs = configuration.sharding_spec
        if not configuration.configuration_id or not all(spec.tensor_name for spec in specs):
            raise ModelError(f"{where} has a device configuration without an id or a tensor")


def _tensors(attribute: onnx.AttributeProto) -> Iterable[onnx.TensorProto]:
    return _values(attribute, Attribute.TENSOR, "t", Attribute.TENSORS, "tensors")


def _graphs(attribute: onnx.AttributeProto) -> Iterable[onnx.GraphProto]:
    return _values(attribute, Attribute.GRAPH, "g", Attribute.GRAPHS, "graphs")


def _types(attribute: onnx.AttributeProto) -> Iterable[onnx.TypeProto]:
    return _values(attribute, Attribute.TYPE_PROTO, "tp", Attribute.TYPE_PROTOS, "type_protos")


def _values(
    attribute: onnx.AttributeProto, one: int, field: str, many: int, fields: str
) -> Iterable[Any]:
    """Return the value or values of an attribute when it is of type one or many."""
    if attribute.type == one:
        return [getattr(attribute, field)]
    return getattr(attribute, fields) if attribute.type == many else []


def _check_attribute_type(attribute: onnx.AttributeProto, where: str) -> None:
    kind = attribute.type
    if kind in (Attribute.SPARSE_TENSOR, Attribute.SPARSE_TENSORS):
        raise UnsupportedError(f"{where} is a sparse tensor; make it dense")
    single = {Attribute.TENSOR: "t", Attribute.GRAPH: "g", Attribute.TYPE_PROTO: "tp"}.get(kind)
    if kind == Attribute.UNDEFINED or kind not in ATTRIBUTE_TYPES:
        raise ModelError(f"{where} has no type that ONNX knows")
    if single is not None and not attribute.HasField(single):
        raise ModelError(f"{where} has no value")
    if kind == Attribute.STRINGS:
        for text in attribute.strings:
            try:
                text.decode()
            except UnicodeDecodeError as error:
                raise ModelError(f"{where} is not UTF-8") from error


def _check_calls(functions: dict[tuple[str, str, str], onnx.FunctionProto], where: str) -> None:
    """Refuse functions that call themselves, directly or not."""
    calls = {key: _called(f.node, functions) for key, f in functions.items()}
    while leaves := [key for key, callees in calls.items() if not callees]:
        for leaf in leaves:
            del calls[leaf]
        calls = {key: callees - set(leaves) for key, callees in calls.items()}
    if calls:
        raise ModelError(f"{where}: function {quoted(next(iter(calls))[1])} calls itself")


def _called(
    nodes: Iterable[onnx.NodeProto], functions: dict[tuple[str, str, str], Any]
) -> set[tuple[str, str, str]]:
    called = set()
    for node in nodes:
        called |= {(node.domain, node.op_type, node.overload)} & set(functions)
        for attribute in node.attribute:
            for graph in _graphs(attribute):
                called |= _called(graph.node, functions)
    return called


def _check_text(message: Any, where: str) -> None:
    """Refuse text that is not UTF-8, anywhere: protobuf hands it out as bytes."""
    for field, value in message.ListFields():
        if field.type == field.TYPE_MESSAGE:
            # Tensors can be large and hold raw bytes; check_tensor looks at their texts.
            if field.message_type.name == "TensorProto":
                continue
            many = [value] if hasattr(value, "ListFields") else value
            for one in many:
                _check_text(one, where)
        elif field.type == field.TYPE_STRING:
            check_utf8([value] if isinstance(value, str | bytes) else value, where, field.name)


def check_utf8(texts: Iterable[Any], where: str, field: str) -> None:
    """Refuse texts that protobuf could not decode."""
    for text in texts:
        if isinstance(text, bytes):
            raise ModelError(f"{where}: {field} {quoted(text)} is not UTF-8")
