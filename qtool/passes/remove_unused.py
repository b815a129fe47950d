"""What no output needs."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedFunctionsPass

from qtool.model import Model
from qtool.passes.rewriting import editable, graph_of


def remove_unused(model: Model) -> Model:
    """Remove nodes, constants, functions and operator sets that no output of the graph needs.

    Graph inputs stay, also those that nothing reads: callers feed them.
    """
    edited = editable(model)
    count = 0
    for graph in list(edited.ir.graphs()):
        for node in reversed(graph):
            if not any(o.uses() or o.is_graph_output() for o in node.outputs):
                discard(node)
                count += 1
    for graph in edited.ir.graphs():
        for name, value in list(graph.initializers.items()):
            if not (value.uses() or value.is_graph_output() or value.is_graph_input()):
                del graph.initializers[name]
                count += 1
    drop_functions = RemoveUnusedFunctionsPass()  # type: ignore[no-untyped-call]
    count += drop_functions(edited.ir).modified
    count += _drop_domains(edited.ir)
    return edited if count else model


def discard(node: ir.Node) -> None:
    """Remove a node whose outputs nobody reads, with what its subgraphs read."""
    for attr in node.attributes.values():
        graphs = (
            [attr.value] if attr.type == ir.AttributeType.GRAPH
            else list(attr.value) if attr.type == ir.AttributeType.GRAPHS
            else []
        )  # fmt: skip
        for graph in graphs:
            for inner in ir.traversal.RecursiveGraphIterator(graph):
                for index in range(len(inner.inputs)):
                    inner.replace_input_with(index, None)
    graph_of(node).remove(node, safe=True)


def _drop_domains(model: ir.Model) -> int:
    """Remove the imports of operator sets that no node, here or in a function, comes from."""
    graphs = [model.graph, *(function.graph for function in model.functions.values())]
    used = {n.domain for graph in graphs for n in ir.traversal.RecursiveGraphIterator(graph)}
    used |= {function.domain for function in model.functions.values()}
    unused = [d for d in model.opset_imports if d not in used and d not in ("", "ai.onnx")]
    for domain in unused:
        del model.opset_imports[domain]
    return len(unused)
