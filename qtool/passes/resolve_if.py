"""If nodes whose condition is known."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import onnx_ir as ir

from qtool.model import array, attribute
from qtool.passes.remove_unused import discard
from qtool.passes.rewriting import Editor, graph_of, rewrites


@rewrites("If")
def resolve_if(node: ir.Node, editor: Editor) -> bool:
    """Put the branch that a constant condition chooses in the place of its If.

    Names of the branch survive unless something outside of it has the same one.
    """
    condition = array(node.inputs[0])
    if condition is None or condition.size != 1:
        return False
    chosen = "then_branch" if condition.item() else "else_branch"
    branch: ir.Graph = attribute(node, chosen)
    graph = graph_of(node)
    results = list(branch.outputs)
    if len(results) != len(node.outputs) or branch.inputs:
        return False
    _rename(node, branch, editor)
    branch.outputs.clear()
    for name, value in list(branch.initializers.items()):
        del branch.initializers[name]
        graph.initializers.add(value)
    inner = list(branch)
    branch.remove(inner)
    graph.insert_before(node, inner)
    for output, result in zip(node.outputs, results, strict=True):
        _connect(node, output, result, editor)
    discard(node)
    return True


def _connect(node: ir.Node, output: ir.Value, result: ir.Value, editor: Editor) -> None:
    """Let readers of an output of the If read what the branch computes for it."""
    if output.is_graph_output():
        # the name of a graph output must survive, and a value has one name: so by an Identity,
        # which remove_identities takes away where it can
        copy = ir.node("Identity", [result], name=editor.name(f"{node.name}_{output.name}"))
        graph_of(node).insert_before(node, copy)
        final, output.name = output.name, None
        result = copy.outputs[0]
        result.name, result.type, result.shape = final, output.type, output.shape
    output.replace_all_uses_with(result, replace_graph_outputs=True)


def _rename(node: ir.Node, branch: ir.Graph, editor: Editor) -> None:
    """Give new names to what is named in the branch like something outside of it."""
    everything = Counter(v.name for v in _values(editor.model.graph))
    within = Counter(value.name for value in _values(branch))
    for value in list(_values(branch)):
        if value.name and everything[value.name] > within[value.name]:
            value.name = editor.name(value.name)
    for one in branch:
        one.name = editor.name(one.name) if one.name else one.name


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    """Yield the values that a graph and its subgraphs define."""
    for each in (graph, *graph.subgraphs()):
        yield from each.inputs
        yield from (v for v in each.initializers.values() if not v.is_graph_input())
        for node in each:
            yield from node.outputs
