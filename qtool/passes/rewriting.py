"""What passes are made of: rules that edit the graph around one node, and the edits they make.

A pass is a pure function Model -> Model whose result computes the same outputs. It works on a copy
of the graph, shares every weight that it does not change, and returns its argument itself when it
finds nothing to do. Bodies of functions are left alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import wraps
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from qtool.model import BatchNormStatistics, Model, Names, add_initializer, all_nodes
from qtool.passes.tensors import dims

Pass = Callable[[Model], Model]
SCRATCH = "qtool.scratch"  # in a graph's meta: nobody else has it, so passes may edit it
Array = npt.NDArray[Any]


class Editor:
    """The edits that rules make to a copy of a model, keeping names and types right."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.batch_norm: dict[str, BatchNormStatistics] = dict(model.batch_norm)
        self._names: Names | None = None

    def name(self, wanted: str) -> str:
        """Return a name that nothing in the graph has, close to the wanted one."""
        if self._names is None:
            self._names = Names(self.model.graph)
        return self._names(wanted)

    def constant(self, graph: ir.Graph, wanted: str, values: Array | ir.TensorProtocol) -> ir.Value:
        """Add a constant to the graph and return its value."""
        return add_initializer(graph, self.name(wanted), values)

    def set_input(self, node: ir.Node, index: int, value: ir.Value | None) -> None:
        """Make value the node's input of that index, which may be one past the last."""
        if index >= len(node.inputs):
            node.resize_inputs(index + 1)
        node.replace_input_with(index, value)

    def set_constant(
        self, node: ir.Node, index: int, wanted: str, values: Array | ir.TensorProtocol
    ) -> None:
        """Make a constant the node's input; the one that is there keeps its name if it can."""
        old = node.inputs[index] if index < len(node.inputs) else None
        if old is not None and owned(old):
            tensor = ir.Tensor(values) if isinstance(values, np.ndarray) else values
            old.const_value = tensor
            old.shape = ir.Shape(dims(tensor))
            return
        self.set_input(node, index, self.constant(graph_of(node), wanted, values))

    def replace(self, node: ir.Node, *new: ir.Node) -> None:
        """Put new nodes in the place of a node; the last one's outputs take over its outputs."""
        ir.convenience.replace_nodes_and_values(
            graph_of(node), node, [node], list(new), node.outputs, new[-1].outputs
        )

    def bypass(self, node: ir.Node, source: ir.Value) -> bool:
        """Let all readers of the node's only output read source, which has the same values.

        The name of a graph output survives: source takes it over. Returns False, and changes
        nothing, when it cannot: source is itself an input, a constant or an output of its graph,
        or comes from an outer graph.
        """
        output, graph = node.outputs[0], graph_of(node)
        if output.is_graph_output():
            producer = source.producer()
            if producer is None or producer.graph is not graph or source.is_graph_output():
                return False
            if len([o for o in graph.outputs if o is output]) > 1:
                return False
        self._take_over(node, source, keep_statistics=True)
        return True

    def absorb(self, node: ir.Node, source: ir.Value) -> None:
        """Remove a node whose output source now holds, and give source the output's name."""
        output_name, shape = node.outputs[0].name, node.outputs[0].shape
        self.batch_norm.pop(source.name or "", None)
        self._take_over(node, source, keep_statistics=False)
        source.name = output_name
        source.shape = shape if shape is not None else source.shape

    def _take_over(self, node: ir.Node, source: ir.Value, *, keep_statistics: bool) -> None:
        output = node.outputs[0]
        was_output = output.is_graph_output()
        output.replace_all_uses_with(source, replace_graph_outputs=True)
        if was_output:
            known = self.batch_norm.pop(source.name or "", None)
            if known is not None and keep_statistics and output.name:
                self.batch_norm[output.name] = known
            source.name = output.name
            source.type = output.type if output.type is not None else source.type
            source.shape = output.shape if output.shape is not None else source.shape
        graph_of(node).remove(node, safe=True)

    def finish(self) -> Model:
        """Return the edited model."""
        return replace(self.model, batch_norm=self.batch_norm)


Rule = Callable[[ir.Node, Editor], bool]


def rewrites(*op_types: str) -> Callable[[Rule], Pass]:
    """Make a pass of a rule, which visits each ONNX node of these types (of all when none given).

    The rule edits the graph around the node and says whether it did.
    """

    def concerns(node: ir.Node) -> bool:
        return node.domain == "" and (not op_types or node.op_type in op_types)

    def make(rule: Rule) -> Pass:
        @wraps(rule)
        def run(model: Model) -> Model:
            if not any(map(concerns, all_nodes(model))):
                return model
            editor = Editor(editable(model))
            nodes = [node for node in all_nodes(editor.model) if concerns(node)]
            changes = [rule(node, editor) for node in nodes if node.graph is not None]
            return editor.finish() if any(changes) else model

        return run

    return make


def editable(model: Model) -> Model:
    """Return a model whose graph a pass may edit: a copy, or the same if it is scratch."""
    return replace(model) if model.ir.meta.get(SCRATCH) else model.copy()


@contextmanager
def scratch(model: Model) -> Iterator[Model]:
    """Let passes edit the model itself for a while, for one that runs many and owns it."""
    model.ir.meta[SCRATCH] = True
    try:
        yield model
    finally:
        del model.ir.meta[SCRATCH]


def label(node: ir.Node) -> str:
    """Return how a message names a node: many exporters name outputs only."""
    outputs = [value.name for value in node.outputs if value.name]
    where = f" of {outputs[0]!r}" if outputs and not node.name else ""
    return f"node {node.name!r}" if node.name else f"the node{where}"


def graph_of(node: ir.Node) -> ir.Graph:
    """Return the graph that a node is in."""
    assert node.graph is not None
    return node.graph


def owned(value: ir.Value) -> bool:
    """Tell whether value is a constant with one reader, which may give it other content."""
    return (
        value.is_initializer()
        and len(value.uses()) == 1
        and not value.is_graph_input()
        and not value.is_graph_output()
    )


def only_reader(value: ir.Value) -> ir.Node | None:
    """Return the one node that reads value, once; None if there are more or it is an output."""
    if value.is_graph_output() or len(value.uses()) != 1:
        return None
    return next(iter(value.uses())).node


def produced(value: ir.Value | None, *op_types: str) -> ir.Node | None:
    """Return the node of one of these ONNX types that computes value, or None."""
    node = None if value is None else value.producer()
    return node if node is not None and node.domain == "" and node.op_type in op_types else None


def rank(value: ir.Value | None) -> int | None:
    """Return the number of dims of a value, or None when it is unknown."""
    return None if value is None or value.shape is None else len(value.shape)


def static_shape(value: ir.Value | None) -> tuple[int, ...] | None:
    """Return the dims of a value when all of them are known numbers."""
    if value is None or value.shape is None:
        return None
    dims = tuple(d for d in value.shape if isinstance(d, int))
    return dims if len(dims) == len(value.shape) else None
