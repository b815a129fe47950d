"""Whether each node is what its operator's definition asks for, so that passes need not ask."""

from __future__ import annotations

from functools import cache

import onnx
import onnx_ir as ir

from qtool.errors import ModelError
from qtool.model import Model, opset
from qtool.passes.rewriting import label

SINGLE = onnx.defs.OpSchema.FormalParameterOption.Single


def check_nodes(model: Model) -> None:
    """Check the number of inputs and outputs and the attributes of each node of the ONNX domain.

    In the graph, its subgraphs and its functions. Operators that onnx does not know are left to
    the runtime.

    Raises:
        ModelError: a node does not fit the definition of its operator; names node and reason.
    """
    _check_graph(model.graph, opset(model))
    for function in model.ir.functions.values():
        _check_graph(function.graph, function.opset_imports.get("", 0))


def _check_graph(graph: ir.Graph, version: int) -> None:
    for node in ir.traversal.RecursiveGraphIterator(graph):
        schema = _schema(node.op_type, version) if node.domain == "" else None
        problem = None if schema is None else _problem(node, schema)
        if problem is not None:
            raise ModelError(
                f"{label(node)} ({node.op_type}, opset {version}) {problem}; export the model again"
            )


@cache
def _schema(op_type: str, version: int) -> onnx.defs.OpSchema | None:
    try:
        return onnx.defs.get_schema(op_type, version)
    except onnx.defs.SchemaError:
        return None


def _problem(node: ir.Node, schema: onnx.defs.OpSchema) -> str | None:
    for what, n, least, most in (
        ("inputs", len(node.inputs), schema.min_input, schema.max_input),
        ("outputs", len(node.outputs), schema.min_output, schema.max_output),
    ):
        if not least <= n <= most:
            wanted = f"{least}" if least == most else f"{least} to {most}"
            return f"has {n} {what} and needs {wanted}"
    for formal, value in zip(schema.inputs, node.inputs, strict=False):
        if value is None and formal.option == SINGLE:
            return f"lacks its input {formal.name!r}"
    if schema.outputs and schema.outputs[0].option == SINGLE and not node.outputs[0].name:
        return f"lacks its output {schema.outputs[0].name!r}"
    return _attribute_problem(node, schema)


def _attribute_problem(node: ir.Node, schema: onnx.defs.OpSchema) -> str | None:
    for name, formal in schema.attributes.items():
        attr = node.attributes.get(name)
        if attr is None and formal.required:
            return f"lacks its attribute {name!r}"
        if attr is not None and attr.type != int(formal.type.value):
            return (
                f"has an attribute {name!r} of type {attr.type.name}, and needs {formal.type.name}"
            )
    return None
