"""Small edits of a graph in place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import onnx_ir as ir

from qtool.model import Names


class ShortNames(Names):
    """Also makes names that cost few bytes: each stands in a file two or three times."""

    def __init__(self, graph: ir.Graph) -> None:
        super().__init__(graph)
        self._numbers: dict[str, int] = {}

    def short(self, stem: str) -> str:
        """Return stem with the next number that makes it new."""
        number = self._numbers[stem] = self._numbers.get(stem, 0) + 1
        return self(f"{stem}{number}")


class Chain:
    """Collects nodes that replace one node, each reading what the earlier ones made."""

    def __init__(self, replaced: ir.Node, names: ShortNames) -> None:
        self._replaced, self._names = replaced, names
        self._nodes: list[ir.Node] = []

    def add(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        attributes: Mapping[str, Any] | None = None,
        *,
        dtype: ir.DataType = ir.DataType.FLOAT,
    ) -> ir.Value:
        """Append a node; return its output, of the given type."""
        output = ir.Value(name=self._names.short("step"), type=ir.TensorType(dtype))
        self._nodes.append(ir.node(op_type, inputs, attributes, outputs=[output], name=""))
        return output

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
