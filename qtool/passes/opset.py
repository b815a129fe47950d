"""Raising the version of the ONNX operator set that a model uses.

Walks from version to version; at each, every node whose operator changed there gets its new form:
from ADAPTERS, or else from onnx.version_converter, which is given a model of that one node only.
So weights are never copied, names survive, and subgraphs and functions are treated like the graph.
"""

from __future__ import annotations

from functools import cache

import onnx
import onnx.version_converter
import onnx_ir as ir

from qtool.errors import UnsupportedError
from qtool.model import Model, Names, opset
from qtool.passes.adapters import ADAPTERS, Context
from qtool.passes.constants import lift_constants
from qtool.passes.rewriting import graph_of, label

OLDEST = 7


def raise_opset(model: Model, version: int) -> Model:
    """Return the model at a version of the ONNX domain of at least the one given.

    Shapes of tensors help: an old Softmax over several axes needs the rank of its input.

    Raises:
        UnsupportedError: an operator has no equivalent form, or the model is older than opset 7.
    """
    if opset(model) >= version and not _old_functions(model, version):
        return model
    raised = model.copy()
    names = Names(raised.graph)
    imports = raised.ir.opset_imports
    if opset(model):
        _raise(raised.graph, opset(model), version, names)
        imports.pop("ai.onnx", None)
        imports[""] = max(opset(model), version)
    for function in _old_functions(raised, version):
        _raise(function.graph, function.opset_imports[""], version, Names(function.graph))
        function.opset_imports[""] = version
    raised.ir.ir_version = max(raised.ir.ir_version, _min_ir_version(version))
    return lift_constants(raised)


def _old_functions(model: Model, version: int) -> list[ir.Function]:
    return [f for f in model.ir.functions.values() if f.opset_imports.get("", version) < version]


def _min_ir_version(version: int) -> int:
    wanted = onnx.helper.make_opsetid("", version)
    return int(onnx.helper.find_min_ir_version_for([wanted]))


def _raise(graph: ir.Graph, old: int, new: int, names: Names) -> None:
    if old < OLDEST:
        raise UnsupportedError(
            f"the model uses opset {old}, and qtool reads {OLDEST} and newer; export it again, or "
            "convert it with onnx.version_converter"
        )
    newest = onnx.defs.onnx_opset_version()
    if new > newest:
        raise UnsupportedError(f"opset {new} is newer than {newest}, the newest that onnx knows")
    for version in range(old + 1, new + 1):
        for node in list(ir.traversal.RecursiveGraphIterator(graph)):
            if node.domain == "" and _changed(node.op_type, version):
                _adapt(node, version, names)


@cache
def _changed(op_type: str, version: int) -> bool:
    """Tell whether the operator has a new definition, or none any more, at this version."""
    try:
        schema = onnx.defs.get_schema(op_type, version)
    except onnx.defs.SchemaError:
        return False
    return bool(schema.since_version == version)


def _adapt(node: ir.Node, version: int, names: Names) -> None:
    adapter = ADAPTERS.get((node.op_type, version))
    try:
        if adapter is not None:
            adapter(Context(node, names))
        else:
            _convert(node, version, names)
    except UnsupportedError as error:
        raise UnsupportedError(
            f"{label(node)} ({node.op_type}, opset {version - 1}) has no form at opset "
            f"{version} that qtool knows: {error}; export the model at opset {version} or newer"
        ) from error


def _convert(node: ir.Node, version: int, names: Names) -> None:
    """Give a node its new form by onnx.version_converter."""
    proto = ir.to_proto(node)
    renamed = [f"i{i}" if name else "" for i, name in enumerate(proto.input)]
    results = [f"o{i}" if name else "" for i, name in enumerate(proto.output)]
    del proto.input[:], proto.output[:]
    proto.input.extend(renamed)
    proto.output.extend(results)
    proto.ClearField("name")
    proto.ClearField("doc_string")
    proto.ClearField("metadata_props")
    types = tuple(v.dtype.value if v is not None and v.dtype else 1 for v in node.inputs)
    made = _converted(proto.SerializeToString(deterministic=True), types, version)
    if made is not None:
        _splice(node, [onnx.NodeProto.FromString(data) for data in made], names)


@cache
def _converted(data: bytes, types: tuple[int, ...], version: int) -> tuple[bytes, ...] | None:
    """Return the nodes that version_converter makes of one; None when the node stays as it is.

    Cached, because networks repeat themselves and one conversion takes milliseconds.
    """
    node = onnx.NodeProto.FromString(data)
    inputs = [
        onnx.helper.make_tensor_value_info(name, kind, None)
        for name, kind in zip(node.input, types, strict=True)
        if name
    ]
    outputs = [onnx.helper.make_tensor_value_info(n, types[0] if types else 1, None)
               for n in node.output if n]  # fmt: skip
    graph = onnx.helper.make_graph([node], "node", inputs, outputs)
    imports = [onnx.helper.make_opsetid("", version - 1)]
    model = onnx.helper.make_model(graph, opset_imports=imports, ir_version=10)
    try:
        converted = onnx.version_converter.convert_version(model, version).graph
    except Exception as error:
        reason = " ".join(str(error).split())
        raise UnsupportedError(f"onnx.version_converter says {reason[:200]!r}") from error
    made = [
        onnx.helper.make_node("Constant", [], [tensor.name], value=tensor)
        for tensor in converted.initializer
    ]
    made += converted.node
    for one in made:
        one.ClearField("name")
    if len(made) == 1 and made[0] == node:
        return None
    return tuple(one.SerializeToString(deterministic=True) for one in made)


def _splice(node: ir.Node, protos: list[onnx.NodeProto], names: Names) -> None:
    """Put the converted nodes in the place of the node that they were made of."""
    values: dict[str, ir.Value | None] = {f"i{i}": v for i, v in enumerate(node.inputs)}
    old = {f"o{i}": value for i, value in enumerate(node.outputs) if value.name}
    made = []
    for proto in protos:
        inputs = [values[name] if name else None for name in proto.input]
        one = ir.Node("", proto.op_type, inputs, num_outputs=len(proto.output))
        for attr in proto.attribute:
            one.attributes[attr.name] = ir.from_proto(attr)
        for name, output in zip(proto.output, one.outputs, strict=True):
            output.name = name and (old[name].name if name in old else names(f"{node.name}_{name}"))
            values[name] = output
        one.name = names(f"{node.name}_{proto.op_type}")
        made.append(one)
    made[-1].name = node.name
    made[-1].metadata_props.update(node.metadata_props)
    new = [value for name in old if (value := values[name]) is not None]
    ir.convenience.replace_nodes_and_values(
        graph_of(node), node, [node], made, list(old.values()), new
    )
