"""The constant weights of a model, and every node that reads each one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from qtool.model import Model, all_nodes, attribute, constant
from qtool.quant.channels import WEIGHTS, channel_axis, depth_axis

MOVES = ("Transpose", "Identity")  # a weight is followed through these


@dataclass(frozen=True)
class Use:
    """A node that reads a weight: its axis i is axis axes[i] of the weight."""

    node: ir.Node
    index: int
    axes: tuple[int, ...]

    @property
    def is_weight(self) -> bool:
        """Whether the node multiplies with, or looks up rows of, what it reads."""
        return is_weighted(self.node) and self.index in WEIGHTS[self.node.op_type]

    def channel(self, shape: Sequence[int]) -> int | None:
        """Return the weight's axis that runs over the node's output channels, or None."""
        axis = channel_axis(self.node, self.index, [shape[a] for a in self.axes])
        return None if axis is None else self.axes[axis]

    def depth(self, shape: Sequence[int]) -> int:
        """Return the weight's axis that the node sums over."""
        return self.axes[depth_axis(self.node, self.index, [shape[a] for a in self.axes])]


def is_weighted(node: ir.Node) -> bool:
    """Return whether the node is of an op that has weights."""
    return node.domain in ("", "ai.onnx") and node.op_type in WEIGHTS


def weights(model: Model) -> dict[ir.Value, list[Use]]:
    """Return the constants that some weighted node reads, and who else reads them, in order."""
    found: dict[ir.Value, list[Use]] = {}
    for node in all_nodes(model):
        for value in weight_inputs(node):
            root = source(value)
            if root not in found and constant(root) is not None:
                rank = len(root.shape or constant(root).shape)  # type: ignore[union-attr]
                found[root] = list(_uses(root, tuple(range(rank))))
    return found


def weight_inputs(node: ir.Node) -> list[ir.Value]:
    """Return the inputs of a node at the places of a weight; none where its op has no weights."""
    if not is_weighted(node):
        return []
    indices = (i for i in WEIGHTS[node.op_type] if i < len(node.inputs))
    return [value for i in indices if (value := node.inputs[i]) is not None]


def source(value: ir.Value) -> ir.Value:
    """Return what a value is a transposed copy of, or the value itself."""
    producer = value.producer()
    while producer is not None and producer.op_type in MOVES and producer.inputs[0] is not None:
        value = producer.inputs[0]
        producer = value.producer()
    return value


def _uses(value: ir.Value, axes: tuple[int, ...]) -> Iterator[Use]:
    for node, index in value.uses():
        if node.op_type in MOVES and not node.outputs[0].is_graph_output():
            order = range(len(axes))
            if node.op_type == "Transpose":
                order = attribute(node, "perm", tuple(reversed(order)))
            yield from _uses(node.outputs[0], tuple(axes[i] for i in order))
        else:
            yield Use(node, index, axes)
