"""What a stage decided where its options left the choice: kept in the history beside them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

import onnx_ir as ir

from qtool.model import Json
from qtool.quant.layer_rounding import Rounder, WeightRounder
from qtool.quant.op_rules import weight_index

REST = "*"  # all tensors or layers that have no choice of their own


class Decisions:
    """Collects decisions by what they are about."""

    def __init__(self) -> None:
        self.found: dict[str, Json] = {}

    def say(self, about: str, value: Json) -> None:
        """Note one decision; a later one about the same takes its place."""
        self.found[about] = value

    def each(self, about: str, choices: Mapping[str, str]) -> None:
        """Note the choices of many: the most frequent as that of all, the others by name."""
        if choices:
            rest, _ = Counter(choices.values()).most_common(1)[0]
            others = {name: choice for name, choice in choices.items() if choice != rest}
            self.found[about] = {REST: rest, **others} if others else rest


def roundings(
    nodes: Iterable[ir.Node],
    rounder: WeightRounder | None,
    clamps: Mapping[ir.Value, ir.Node] | None = None,
) -> dict[str, str]:
    """Return how each layer's weight is rounded, by the tensor behind it and its clamps.

    By the rounder's method where the layer's Gram matrix is known.
    """
    layers = [node for node in nodes if weight_index(node) is not None]
    names = {node: _behind(node.outputs[0], clamps or {}) for node in layers}
    made = dict.fromkeys(names.values(), "nearest")
    if not isinstance(rounder, Rounder):
        return made
    known = [name for node, name in names.items() if node in rounder.grams]
    return {**made, **dict.fromkeys(known, rounder.search.method)}


def _behind(value: ir.Value, clamps: Mapping[ir.Value, ir.Node]) -> str:
    while value in clamps:
        value = clamps[value].outputs[0]
    return value.name or ""
