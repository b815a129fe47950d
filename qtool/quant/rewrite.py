"""Small edits of a graph in place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import onnx_ir as ir

from qtool.model import Names


class Chain:
    """Collects nodes that replace one node, each reading what the earlier ones made.

    Values and nodes are named after the first output of the replaced node.
    """

    def __init__(self, replaced: ir.Node, names: Names) -> None:
        self._replaced, self._names = replaced, names
        self._nodes: list[ir.Node] = []

    def add(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        attributes: Mapping[str, Any] | None = None,
        *,
        dtype: ir.DataType = ir.DataType.FLOAT,
        shape: ir.Shape | None = None,
        n_outputs: int = 1,
        domain: str = "",
    ) -> ir.Value:
        """Append a node; return its first output, of the given type."""
        name = f"{self._replaced.outputs[0].name}_{op_type}"
        outputs = [ir.Value(name=self._names(name)) for _ in range(n_outputs)]
        outputs[0].type, outputs[0].shape = ir.TensorType(dtype), shape
        node = ir.node(
            op_type, inputs, attributes, domain=domain, outputs=outputs, name=self._names(name)
        )
        self._nodes.append(node)
        return outputs[0]

    def finish(self) -> list[ir.Node]:
        """Put the nodes in the place of the replaced one; the last one takes its names."""
        old, graph = self._replaced, self._replaced.graph
        assert graph is not None
        graph.insert_after(old, self._nodes)
        take_over(old.outputs[0], self._nodes[-1].outputs[0], self._names)
        graph.remove(old, safe=True)
        self._nodes[-1].name = old.name
        return self._nodes


def take_over(old: ir.Value, new: ir.Value, names: Names) -> None:
    """Let everything read new instead of old, outputs of the graph included, and swap names."""
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    name = old.name or ""
    old.name = names(f"{name}_replaced")
    new.name = name
    if new.shape is None and old.shape is not None:
        new.shape = old.shape.copy()
