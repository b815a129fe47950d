"""Which channels of which tensors have to be scaled alike, so that a model stays the same function.

Scaling channel c of a tensor by s > 0 goes through a ReLU, a pooling or a sum unchanged; the layer
that makes the channel multiplies its weights by s, those that read it divide theirs. Channels that
meet in an Add or a Concat are one variable; what another op sees stays as it is (pinned).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from qtool.model import Model, all_nodes, array, attribute, constant
from qtool.quant.op_rules import weight_index
from qtool.shapes import tensor_shape

Ids = npt.NDArray[np.intp]
LAYERS = ("Conv", "Gemm", "MatMul")  # absorb factors on both sides


@dataclass
class Ties:
    """The variable of each channel of each tensor, and which of the variables are fixed.

    ids[value] is (C,), over axis 1 of the tensor; variables are numbered from 0. free[variable]
    says whether it may have a factor other than 1; clipped[variable] is the upper limit of a Clip
    that it passes (inf: none). reasons say why tensors are fixed.
    """

    ids: dict[ir.Value, Ids]
    free: npt.NDArray[np.bool_]
    clipped: npt.NDArray[np.float64]
    layers: list[ir.Node]  # Conv, Gemm and MatMul whose weight may be scaled
    reasons: dict[ir.Value, str] = field(default_factory=dict)


def ties(model: Model) -> Ties:
    """Return the ties of a model whose tensors have known shapes."""
    return Builder(model).all()


class Builder:
    """Collects ties node by node: a disjoint-set forest over all channels.

    rules: by op type, which channels of a node are tied. pins: of a layer, the tensors whose
    channels stay as they are.
    """

    def __init__(
        self,
        model: Model,
        rules: Mapping[str, Rule] | None = None,
        pins: Callable[[ir.Node], Mapping[ir.Value, str]] = lambda _: {},
    ) -> None:
        self._model, self._graph = model, model.graph
        self._rules, self._pins = RULES if rules is None else rules, pins
        self._parent: list[int] = []
        self._first: dict[ir.Value, int] = {}
        self._count: dict[ir.Value, int] = {}
        self._limits: list[tuple[ir.Value, float]] = []
        self._layers: list[ir.Node] = []
        self._reasons: dict[ir.Value, str] = {}
        for value in (*model.graph.inputs, *model.graph.outputs):
            self._pin(value, "it is an input or output of the model")

    def all(self) -> Ties:
        """Return the ties of all nodes."""
        for node in all_nodes(self._model):
            self._visit(node)
        return self._finish()

    def _visit(self, node: ir.Node) -> None:
        """Add what a node ties or pins."""
        values = [v for v in (*node.inputs, *node.outputs) if v is not None]
        if node.domain == "" and node.graph is self._graph:
            if node.op_type in LAYERS and self._is_layer(node):
                self._layers.append(node)
                for value, reason in self._pins(node).items():
                    self._pin(value, reason)
                return
            rule = self._rules.get(node.op_type)
            pairs = None if rule is None else rule(node)
            if pairs is not None and all(self._tie(a, b) for a, b in pairs):
                if node.op_type == "Clip":
                    self._limits.append((node.outputs[0], bounds(node)[1]))
                return
        for value in values:
            self._pin(value, f"{node.op_type} reads or makes it")

    def _finish(self) -> Ties:
        """Return the ties, with variables numbered in the order of the tensors."""
        roots = np.array([self._root(i) for i in range(len(self._parent))], np.intp)
        kept, numbers = np.unique(roots, return_inverse=True)
        ids = {v: numbers[i : i + self._count[v]] for v, i in self._first.items()}
        free, clipped = np.ones(len(kept), bool), np.full(len(kept), np.inf)
        for value in self._reasons:
            if value in ids:
                free[ids[value]] = False
        for value, limit in self._limits:
            clipped[ids[value]] = np.minimum(clipped[ids[value]], limit)
        return Ties(ids, free, clipped, self._layers, self._reasons)

    def _is_layer(self, node: ir.Node) -> bool:
        """Return whether a layer's constants are its own, and its channels are known."""
        weight, bias = node.inputs[1], node.inputs[2] if len(node.inputs) > 2 else None
        fits = weight_index(node) == 1 and weight is not None and _plain(node)
        owned = all(
            v is None or (v.is_initializer() and len(v.uses()) == 1) for v in (weight, bias)
        )
        x = node.inputs[0]
        return fits and owned and x is not None and self._add(x) and self._add(node.outputs[0])

    def _add(self, value: ir.Value) -> bool:
        if value in self._first:
            return True
        count = channels(value)
        if count is None:
            return False
        self._first[value], self._count[value] = len(self._parent), count
        self._parent.extend(range(len(self._parent), len(self._parent) + count))
        return True

    def _tie(self, a: tuple[ir.Value, Ids], b: tuple[ir.Value, Ids]) -> bool:
        if not (self._add(a[0]) and self._add(b[0])) or len(a[1]) != len(b[1]):
            return False
        for i, j in zip(a[1] + self._first[a[0]], b[1] + self._first[b[0]], strict=True):
            left, right = sorted((self._root(int(i)), self._root(int(j))))
            self._parent[right] = left
        return True

    def _pin(self, value: ir.Value, reason: str) -> None:
        if constant(value) is None:
            self._add(value)
            self._reasons.setdefault(value, reason)

    def _root(self, i: int) -> int:
        while self._parent[i] != i:
            self._parent[i] = self._parent[self._parent[i]]
            i = self._parent[i]
        return i


def _owned(value: ir.Value) -> bool:
    """Return whether a value is a float constant that one node reads, so that it may change."""
    tensor = constant(value)
    known = tensor is not None and tensor.dtype == ir.DataType.FLOAT
    return known and value.is_initializer() and len(value.uses()) == 1


def channels(value: ir.Value | None) -> int | None:
    """Return the length of axis 1 of a float tensor of rank 2 or more, or None."""
    if value is None or value.shape is None or len(value.shape) < 2 or constant(value) is not None:
        return None
    if value.dtype not in (None, ir.DataType.FLOAT):
        return None
    count = value.shape[1]
    return count if isinstance(count, int) else None


def _plain(node: ir.Node) -> bool:
    if node.op_type == "Conv":
        return True
    weight = constant(node.inputs[1])
    two = weight is not None and len(tensor_shape(weight)) == 2
    x = node.inputs[0]
    two = two and x is not None and x.shape is not None and len(x.shape) == 2
    alike = attribute(node, "alpha", 1.0) == attribute(node, "beta", 1.0) == 1.0
    return two and alike and not attribute(node, "transA", 0)


Side = tuple[ir.Value, Ids]
Pairs = Iterator[tuple[Side, Side]]
Rule = Callable[[ir.Node], "Iterable[tuple[Side, Side]] | None"]


def _all(value: ir.Value) -> Side:
    return value, np.arange(channels(value) or 0)


def through(node: ir.Node) -> list[tuple[Side, Side]] | None:
    """Tie each channel of the first input to that of the output."""
    x, y = node.inputs[0], node.outputs[0]
    return None if x is None else [(_all(x), _all(y))]


def _clip(node: ir.Node) -> list[tuple[Side, Side]] | None:
    low, high = bounds(node)
    return through(node) if low in (0.0, -np.inf) and high > 0 else None


def bounds(node: ir.Node) -> tuple[float, float]:
    """Return the limits of a Clip; nan for one that is no constant number."""

    def limit(index: int, default: float) -> float:
        value = node.inputs[index] if len(node.inputs) > index else None
        if value is None:
            return default
        found = array(value)
        return float(found.ravel()[0]) if found is not None and found.size == 1 else np.nan

    return limit(1, -np.inf), limit(2, np.inf)


def _pad(node: ir.Node) -> list[tuple[Side, Side]] | None:
    value = node.inputs[2] if len(node.inputs) > 2 else None
    filled = array(value) if value is not None else np.zeros(1)
    zero = filled is not None and not filled.any()
    same = channels(node.inputs[0]) == channels(node.outputs[0])
    return through(node) if same and (zero or attribute(node, "mode", "") == "reflect") else None


def _reshape(node: ir.Node) -> list[tuple[Side, Side]] | None:
    """Tie what a reshape to (N, C) or (N, C * H * W), or one that keeps N and C, only moves."""
    x, y = node.inputs[0], node.outputs[0]
    n_in, n_out = channels(x), channels(y)
    if x is None or x.shape is None or y.shape is None or n_in is None or n_out is None:
        return None
    inner = [d for d in x.shape.dims[2:] if isinstance(d, int)]
    if len(inner) != len(x.shape) - 2:
        return None
    size = int(np.prod(inner))
    if len(y.shape) == 2 and n_out == n_in * size:
        return [((x, np.repeat(np.arange(n_in), size)), _all(y))]
    if size == 1 and n_out == n_in and all(d == 1 for d in y.shape.dims[2:]):
        return [(_all(x), _all(y))]
    return None


def _concat(node: ir.Node) -> list[tuple[Side, Side]] | None:
    output, start, found = node.outputs[0], 0, []
    rank = len(output.shape) if output.shape is not None else 0
    along = rank > 0 and attribute(node, "axis", 0) % rank == 1
    for value in node.inputs:
        count = channels(value)
        if value is None or count is None:
            return None
        found.append((_all(value), (output, np.arange(count) + start)))
        start += count if along else 0
    return found


def _sum(node: ir.Node) -> list[tuple[Side, Side]] | None:
    """Tie the operands of a sum of activations of one shape; a constant operand is not scaled."""
    counts = {channels(value) for value in (*node.inputs, node.outputs[0])}
    ranks = {len(v.shape) for v in node.inputs if v is not None and v.shape is not None}
    if len(counts) != 1 or None in counts or len(ranks) != 1:
        return None
    return [(_all(v), _all(node.outputs[0])) for v in node.inputs if v is not None]


def _prelu(node: ir.Node) -> list[tuple[Side, Side]] | None:
    return through(node) if constant(node.inputs[1]) is not None else None


RULES: dict[str, Rule] = {
    **dict.fromkeys(
        ("Relu", "LeakyRelu", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool",
         "Identity", "Dropout"),
        through,
    ),
    "PRelu": _prelu,
    "Clip": _clip,
    "Pad": _pad,
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze"), _reshape),
    "Concat": _concat,
    **dict.fromkeys(("Add", "Sub"), _sum),
}  # fmt: skip
