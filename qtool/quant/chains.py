"""Chains: a convolution, depthwise ones behind it, and the dense layers that read the last.

All of them share one set of channels, which nothing else sees: a channel's place may be given to
another. Shape legend: C channels of the chain; a weight is (G, A, B, k), G groups of A output and
B input channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from qtool import hessian
from qtool.model import Model, array, attribute
from qtool.quant.rescale import weight_of
from qtool.quant.ties import channels, ties

Float64 = npt.NDArray[np.float64]
Pair = tuple[Float64, Float64]

CLAMPS = ("Relu", "Clip", "Min")
POOLS = ("GlobalAveragePool", "GlobalMaxPool", "MaxPool")  # that leave a constant what it is


@dataclass(frozen=True)
class Chain:
    """Nodes in running order: the first layer, then clamps, pools and depthwise layers."""

    nodes: list[ir.Node]
    readers: list[ir.Node]

    @property
    def made(self) -> list[ir.Node]:
        """The layers in front of the readers."""
        return [node for node in self.nodes if node.op_type == "Conv"]

    @property
    def name(self) -> str:
        """The first layer's output."""
        return self.layer_names[0]

    @property
    def size(self) -> int:
        """C."""
        return int(_bias(self.nodes[0]).size)

    @property
    def source(self) -> str:
        """What the first layer reads."""
        return _name(self.nodes[0].inputs[0])

    @property
    def layer_names(self) -> list[str]:
        """What the layers make, in front of their clamps."""
        return [_name(node.outputs[0]) for node in self.made]

    @property
    def made_names(self) -> list[str]:
        """What the layers make, behind their clamps."""
        found: list[str] = []
        for node in self.nodes:
            if node.op_type == "Conv":
                found.append("")
            if node.op_type not in POOLS:
                found[-1] = _name(node.outputs[0])
        return found

    @property
    def names(self) -> list[str]:
        """The tensors whose channels have to be known."""
        return [self.source, *self.made_names]

    @property
    def takes_constants(self) -> bool:
        """Whether the biases of all readers can stand for a channel that never changes."""
        return all(len(r.inputs) > 2 and r.inputs[2] and not _pads(r) for r in self.readers)

    def bounds(self, low: Float64, high: Float64) -> Pair:
        """Return between what each channel (C,) stays for the readers, for inputs in a range."""
        for node in self.nodes:
            if node.op_type == "Conv":
                low, high = _through_layer(node, low, high)
            elif node.op_type in CLAMPS:
                low, high = _clamped(node, low), _clamped(node, high)
        return low, high

    def costs(self, importance: Mapping[str, Float64], steps: Sequence[float]) -> Float64:
        """Return the noise over signal at the readers that rounding makes of each channel.

        importance[name] (G, A) is that of noise in the output of that name. A depthwise layer
        passes noise by the squares of its weights where that of neighbours is independent, by the
        square of their sum where it is the same, as in flat areas: the mean of both counts.
        """
        noise = np.zeros(self.size)
        for node, step in zip(self.made, steps, strict=True):
            if node is not self.nodes[0]:
                taps = weight_of(node)[:, 0, 0]
                noise *= (np.square(taps).sum(1) + taps.sum(1) ** 2) / 2
            noise += step**2 / 12
        cost = np.zeros(self.size)
        for reader in self.readers:
            squares = np.square(weight_of(reader)[0]).sum(-1)
            cost += importance[_name(reader.outputs[0])].reshape(-1) @ squares
        return np.asarray(noise * cost)

    def fill(self, sources: npt.NDArray[np.intp], constants: Float64, shifts: Float64) -> None:
        """Let channel c be a copy of channel sources[c], and readers average the copies.

        constants (C,) is what the channels that give way were to the readers, shifts (T, C) what
        is added to the outputs of the layers.
        """
        before = None
        for node, shift in zip(self.made, shifts, strict=True):
            rows, bias = weight_of(node), _bias(node)[sources] + shift
            if before is None:
                rows = rows[:, sources]
            else:
                rows = rows[sources]
                bias -= rows.sum((1, 2, 3)) * before
            _store(node, rows, bias)
            before = shift
        for node in self.nodes:
            limits = array(node.inputs[1]) if node.op_type == "Min" else None
            if limits is not None and limits.size > 1:
                _set(node.inputs[1], limits[:, sources])
        copies = np.bincount(sources, minlength=len(sources))[sources]
        for node in self.readers:
            rows = weight_of(node)
            gone = (rows.sum(-1)[0] * constants).sum(1)
            shared = rows[:, :, sources] / copies[:, None]
            _store(node, shared, _bias(node) + gone if self.takes_constants else None)


def chains(model: Model) -> list[Chain]:
    """Return the chains of a model whose tensors have known shapes."""
    layers = set(ties(model).layers)
    found = [_follow(node, layers) for node in model.graph if node in layers and _is_first(node)]
    return [chain for chain in found if chain is not None]


def _is_first(node: ir.Node) -> bool:
    return node.op_type == "Conv" and _is_dense(node) and _has_bias(node)


def _is_dense(node: ir.Node) -> bool:
    return bool(attribute(node, "group", 1) == 1)


def _has_bias(node: ir.Node) -> bool:
    return len(node.inputs) > 2 and array(node.inputs[2]) is not None


def _follow(first: ir.Node, layers: set[ir.Node]) -> Chain | None:
    nodes = [first]
    while True:
        value = nodes[-1].outputs[0]
        users = value.consumers()
        if value.is_graph_output() or not users:
            return None
        if all(user in layers and _is_dense(user) for user in users):
            return Chain(nodes, list(users))
        if len(value.uses()) != 1 or not _passes(users[0], layers):
            return None
        nodes.append(users[0])


def _passes(node: ir.Node, layers: set[ir.Node]) -> bool:
    """Return whether a node keeps channels apart, and constants what they are."""
    if node in layers:
        n_in, n_out = channels(node.inputs[0]), channels(node.outputs[0])
        return attribute(node, "group", 1) == n_in == n_out and _has_bias(node)
    if node.op_type in ("Clip", "Min"):
        limits = [array(v) for v in node.inputs[1:] if v is not None]
        owned = all(len(v.uses()) == 1 for v in node.inputs[1:] if v) or node.op_type == "Clip"
        return owned and bool(limits) and all(v is not None for v in limits)
    return node.op_type in ("Relu", *POOLS)


def _through_layer(node: ir.Node, low: Float64, high: Float64) -> Pair:
    if _pads(node):
        low, high = np.minimum(low, 0.0), np.maximum(high, 0.0)
    rows = weight_of(node)
    shape = (rows.shape[0], 1, rows.shape[2], 1)
    ends = np.stack([rows * low.reshape(shape), rows * high.reshape(shape)])
    bias = _bias(node)
    return ends.min(0).sum((2, 3)).ravel() + bias, ends.max(0).sum((2, 3)).ravel() + bias


def _pads(node: ir.Node) -> bool:
    auto = attribute(node, "auto_pad", "NOTSET") not in ("NOTSET", "VALID")
    return auto or any(attribute(node, "pads", ()))


def _clamped(node: ir.Node, values: Float64) -> Float64:
    if node.op_type == "Relu":
        return np.maximum(values, 0.0)
    limits = [None if v is None else array(v) for v in node.inputs[1:]]
    if node.op_type == "Min":
        return np.asarray(np.minimum(values, np.asarray(limits[0]).ravel()))
    low, high = [*limits, None, None][:2]
    values = values if low is None else np.maximum(values, float(low.ravel()[0]))
    return values if high is None else np.minimum(values, float(high.ravel()[0]))


def _bias(node: ir.Node) -> Float64:
    found = array(node.inputs[2]) if len(node.inputs) > 2 else None
    n_out = channels(node.outputs[0]) or 0
    flat = np.zeros(1) if found is None else found.astype(np.float64).ravel()
    return np.array(np.broadcast_to(flat, n_out))


def _store(node: ir.Node, rows: Float64, bias: Float64 | None) -> None:
    value = node.inputs[1]
    shape = np.asarray(array(value)).shape
    flat = rows.reshape(*rows.shape[:2], -1)
    _set(value, hessian.rows_of(node).back(flat, shape))
    if bias is not None:
        _set(node.inputs[2], bias)


def _set(value: ir.Value | None, values: npt.NDArray[np.floating]) -> None:
    assert value is not None
    stored = np.ascontiguousarray(values, np.float32)
    value.const_value = ir.Tensor(stored, name=value.name)
    value.shape = ir.Shape(stored.shape)


def _name(value: ir.Value | None) -> str:
    return (value.name or "") if value is not None else ""
