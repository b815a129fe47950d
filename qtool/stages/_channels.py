"""Removing channels for good: graph surgery through residuals, concats and depthwise convolutions.

A space is a set of channels that has to stay one: what a layer makes, tied to what else an Add or
a depthwise convolution makes of it. Every tensor (N, C, ...) has its channels in one or, after
a Concat, several spaces, in order; `spread` is how many elements of axis 1 one channel takes
(a Flatten of C x H x W: H * W). Shape legend: as in qtool.compress.hessian.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from qtool.compress.pruners import PRUNERS
from qtool.compress.pruners.obs import refit
from qtool.errors import UnsupportedError
from qtool.model import Model, array, attribute, constant
from qtool.quant.selection import node_label
from qtool.registry import lookup
from qtool.shapes import infer_shapes
from qtool.stages._channels_refit import refit_in_turn
from qtool.stages._probe import by_probes, by_variance, variance
from qtool.stages._weights import Edit, WeightLayer, weight_layers

Progress = Callable[[Iterable[Any], str, "int | None"], Iterable[Any]]

log = logging.getLogger("qtool")
Float64 = npt.NDArray[np.float64]

SAME = frozenset({
    "Relu", "LeakyRelu", "Clip", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Elu", "Selu",
    "Softplus", "Identity", "Dropout", "MaxPool", "AveragePool", "GlobalAveragePool",
    "GlobalMaxPool", "Abs", "Neg", "Exp", "Sqrt", "Erf", "Gelu", "Mish",
})  # fmt: skip
PAIRS = frozenset({"Add", "Sub", "Mul", "Div", "Sum"})
PER_CHANNEL = {"BatchNormalization": (1, 2, 3, 4), "InstanceNormalization": (1, 2), "PRelu": (1,)}


@dataclass
class Space:
    """Channels that stay or go together: who makes and who reads them, or why they stay."""

    size: int
    frozen: str = ""
    makers: list[WeightLayer] = field(default_factory=list)
    readers: list[tuple[WeightLayer, int, int]] = field(default_factory=list)  # start, spread
    constants: list[tuple[ir.Value, int, int]] = field(default_factory=list)  # axis, start


@dataclass(frozen=True)
class Channels:
    """The channels of a tensor: spaces in order, and elements of axis 1 for each channel."""

    spaces: tuple[int, ...]
    spread: int = 1


def prune_channels(
    model: Model,
    sparsity: float,
    only: tuple[str, ...],
    exclude: tuple[str, ...],
    method: str | None,
    scope: str,
    samples: Sequence[Any],
    threads: int,
    progress: Progress,
) -> Model:
    """Return the model without that share of the channels of every space that can lose some.

    scope global: that share of the layers' weights goes, with the channels of least cost a weight.

    Those go whose readers miss them least, one after the other: with Gram statistics by what is
    left once the readers' other weights and biases made up for it (wanda: w^2 H_jj, magnitude:
    w^2), relative to each reader's output. With samples all layers are then fitted in turn.

    Raises:
        UnsupportedError: no channel can be removed; says why.
    """
    if method is not None:
        lookup(PRUNERS, method, "method")
    typed = infer_shapes(model)
    result = Model(typed.ir, model.statistics, model.batch_norm, model.preprocess, model.history)
    layers = weight_layers(result, min_size=1)
    wanted = {layer.name for layer in weight_layers(result, only, exclude, min_size=1)}
    found = _Spaces(result, layers, wanted)
    open_ = [space for space in found.all() if not space.frozen and space.readers]
    if scope == "global":
        costs = by_probes(result, layers, samples, progress) if samples else by_variance(layers)
        losing = [_Losing(space, method, costs) for space in open_]
        _cheapest(losing, sparsity * sum(layer.size for layer in layers))
    else:
        losing = [_Losing(space, method, None) for space in open_]
        _shares(losing, open_, sparsity)
    gone = {
        id(space): np.sort(np.array(one.gone, np.intp))
        for space, one in zip(open_, losing, strict=True)
    }
    n_gone = sum(len(channels) for channels in gone.values())
    if not n_gone:
        reasons = Counter(space.frozen or "nothing reads them" for space in found.all())
        why = "; ".join(f"{n} x {reason}" for reason, n in reasons.most_common(3))
        raise UnsupportedError(f"no channel can be removed: {why or 'there are no layers'}")
    for space in found.all():
        if space.frozen:
            log.debug("%d channels stay: %s", space.size, space.frozen)
    surgery = _Surgery(result, layers, method)
    surgery.remove(open_, gone)
    total = sum(space.size for space in found.all())
    log.info("removed %d of %d channels, in %d places", n_gone, total, len(open_))
    _forget_shapes(result)
    if samples and method in (None, "obs"):
        refit_in_turn(model, result, surgery.kept(), samples, threads)
    return result


class _Spaces:
    """The spaces of a graph, found in one walk; union-find joins those that are tied."""

    def __init__(self, model: Model, layers: Sequence[WeightLayer], wanted: set[str]) -> None:
        self._spaces: list[Space] = []
        self._root: list[int] = []
        self._layers = {layer.node: layer for layer in layers if layer.integer is None}
        self._wanted = wanted
        self._held: dict[ir.Value, Channels] = {}
        for node in model.graph:
            self._visit(node)
        for value in model.graph.outputs:
            self._freeze(value, "the model returns them")

    def all(self) -> list[Space]:
        """Return the spaces, each once."""
        return [space for i, space in enumerate(self._spaces) if self._find(i) == i]

    def _find(self, i: int) -> int:
        while self._root[i] != i:
            i = self._root[i]
        return i

    def _of(self, channels: Channels) -> list[Space]:
        return [self._spaces[self._find(i)] for i in channels.spaces]

    def _new(self, size: int) -> int:
        self._spaces.append(Space(size))
        self._root.append(len(self._root))
        return len(self._root) - 1

    def _join(self, a: int, b: int) -> None:
        a, b = self._find(a), self._find(b)
        if a == b:
            return
        kept, other = self._spaces[a], self._spaces[b]
        self._root[b] = a
        kept.frozen = kept.frozen or other.frozen
        kept.makers += other.makers
        kept.readers += other.readers
        kept.constants += other.constants

    def _freeze(self, value: ir.Value | None, reason: str) -> None:
        if value is not None and value in self._held:
            for space in self._of(self._held[value]):
                space.frozen = space.frozen or reason

    def _visit(self, node: ir.Node) -> None:
        done = False
        if node.op_type in ("Conv", "Gemm", "MatMul"):
            done = self._layer(node)
        elif node.op_type in SAME and node.inputs[0] in self._held:
            self._held[node.outputs[0]] = self._held[node.inputs[0]]
            done = len([o for o in node.outputs if o.uses()]) <= 1
        elif node.op_type in PER_CHANNEL and node.inputs[0] in self._held:
            done = self._parameters(node)
        elif node.op_type in PAIRS:
            done = self._pair(node)
        elif node.op_type == "Concat":
            done = self._concat(node)
        elif node.op_type in ("Flatten", "Reshape"):
            done = self._flatten(node)
        if not done:
            for value in node.inputs:
                self._freeze(value, f"{node.op_type} {node_label(node)!r} reads them")
            for value in node.outputs:
                self._freeze(value, f"{node.op_type} {node_label(node)!r} makes them")

    def _layer(self, node: ir.Node) -> bool:
        layer = self._layers.get(node)
        x = node.inputs[0]
        if layer is None or layer.index != 1 or constant(node.inputs[1]) is None:
            return False
        if len(layer.value.uses()) > 1:
            return False
        groups = attribute(node, "group", 1) if node.op_type == "Conv" else 1
        rank = len(x.shape) if x is not None and x.shape is not None else 0
        if node.op_type != "Conv" and rank != 2:
            return False
        n_out = layer.shape[layer.channel or 0]
        held = self._held.get(x) if x is not None else None
        if groups > 1:
            return self._depthwise(node, layer, held, groups, n_out)
        if held is not None:
            start = 0
            for space in self._of(held):
                space.readers.append((layer, start, held.spread))
                start += space.size * held.spread
                if layer.name not in self._wanted:
                    space.frozen = space.frozen or f"{layer.name!r} is excluded"
        made = self._new(n_out)
        self._spaces[made].makers.append(layer)
        if layer.name not in self._wanted:
            self._spaces[made].frozen = f"{layer.name!r} is excluded"
        if not self._own_bias(node):
            self._spaces[made].frozen = f"the bias of {layer.name!r} is not its own"
        self._held[node.outputs[0]] = Channels((made,))
        return True

    def _own_bias(self, node: ir.Node) -> bool:
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        return bias is None or (constant(bias) is not None and len(bias.uses()) == 1)

    def _depthwise(
        self, node: ir.Node, layer: WeightLayer, held: Channels | None, groups: int, n_out: int
    ) -> bool:
        one_each = n_out == groups and layer.shape[1] == 1
        if held is None or not one_each or len(held.spaces) != 1 or not self._own_bias(node):
            return False
        self._of(held)[0].makers.append(layer)
        self._held[node.outputs[0]] = held
        return True

    def _parameters(self, node: ir.Node) -> bool:
        held = self._held[node.inputs[0]]  # type: ignore[index]
        for index in PER_CHANNEL[node.op_type]:
            if not self._constant(node.inputs[index], held, 0):
                return False
        self._held[node.outputs[0]] = held
        return True

    def _constant(self, value: ir.Value | None, held: Channels, axis: int) -> bool:
        """Let a constant with a number for each channel along axis follow them."""
        values, total = array(value), sum(space.size for space in self._of(held))
        if values is None or value is None:
            return False
        if values.size == 1:
            return True
        if values.ndim <= axis or values.shape[axis] != total or len(value.uses()) != 1:
            return False
        start = 0
        for space in self._of(held):
            space.constants.append((value, axis, start))
            start += space.size
        return held.spread == 1

    def _pair(self, node: ir.Node) -> bool:
        inputs = [value for value in node.inputs if value is not None]
        held = [self._held[value] for value in inputs if value in self._held]
        rank = len(inputs[0].shape) if inputs and inputs[0].shape is not None else 0
        if not held:
            return False
        for value in inputs:
            if value not in self._held:
                values = array(value)
                axis = 0 if values is None else values.ndim - (rank - 1)
                if values is None or (values.size > 1 and axis < 0):
                    return False
                if not self._constant(value, held[0], axis):
                    return False
        sizes = [[space.size for space in self._of(one)] for one in held]
        if any(size != sizes[0] for size in sizes):
            return False
        for one in held[1:]:
            for a, b in zip(held[0].spaces, one.spaces, strict=True):
                self._join(a, b)
        self._held[node.outputs[0]] = held[0]
        return True

    def _concat(self, node: ir.Node) -> bool:
        held = [self._held.get(value) for value in node.inputs if value is not None]
        if attribute(node, "axis", 0) != 1 or any(one is None for one in held):
            return False
        known = [one for one in held if one is not None]
        if len({one.spread for one in known}) != 1:
            return False
        spaces = tuple(space for one in known for space in one.spaces)
        self._held[node.outputs[0]] = Channels(spaces, known[0].spread)
        return True

    def _flatten(self, node: ir.Node) -> bool:
        x, y = node.inputs[0], node.outputs[0]
        if x not in self._held or x is None or x.shape is None or y.shape is None:
            return False
        held = self._held[x]
        spatial = [d for d in list(x.shape)[2:] if isinstance(d, int)]
        if len(y.shape) != 2 or len(spatial) != len(x.shape) - 2:
            return False
        if node.op_type == "Reshape" and not _free(node):
            return False
        if node.op_type == "Flatten" and attribute(node, "axis", 1) != 1:
            return False
        total = sum(space.size for space in self._of(held))
        spread = held.spread * int(np.prod(spatial, dtype=np.int64))
        if y.shape[1] not in (total * spread, None):
            return False
        self._held[y] = Channels(held.spaces, spread)
        return True


def _free(node: ir.Node) -> bool:
    """Return whether a Reshape to rank 2 computes the second dim: (.., -1)."""
    shape = array(node.inputs[1])
    return shape is not None and shape.size == 2 and int(shape[1]) == -1


class _Losing:
    """A space that loses channels, one after the other: the one that is missed least."""

    def __init__(
        self, space: Space, method: str | None, sensitivity: Mapping[str, float] | None
    ) -> None:
        self.gone: list[int] = []
        self._size = space.size
        self._readers = [
            (
                _Reader(layer, _columns(layer, at, spread, space.size).reshape(space.size, -1),
                        method),
                1.0 if sensitivity is None else sensitivity[layer.name] * variance(layer),
            )
            for layer, at, spread in space.readers
        ]  # fmt: skip
        read = sum(layer.rows.shape[1] * spread * layer.taps for layer, _, spread in space.readers)
        self.weights = read + sum(layer.size // space.size for layer in space.makers)

    def next(self) -> tuple[int, float]:
        """Return the channel to remove next, and its cost; infinite for the last one."""
        if len(self.gone) + 1 >= self._size:
            return 0, np.inf
        scores = np.sum([reader.costs() * worth for reader, worth in self._readers], axis=0)
        scores[self.gone] = np.inf
        channel = int(np.argmin(scores))
        return channel, max(float(scores[channel]), 0.0)

    def remove(self, channel: int) -> None:
        """Take it out; the readers' other weights make up for it."""
        self.gone.append(channel)
        for reader, _ in self._readers:
            reader.remove(channel)


def _shares(losing: Sequence[_Losing], spaces: Sequence[Space], sparsity: float) -> None:
    """Remove this share of the channels of each space; at least one stays."""
    for one, space in zip(losing, spaces, strict=True):
        for _ in range(min(round(sparsity * space.size), space.size - 1)):
            one.remove(one.next()[0])


def _cheapest(losing: Sequence[_Losing], wanted: float) -> None:
    """Remove the channels of the least cost for each weight, until `wanted` weights are gone."""
    waiting = [one.next() for one in losing]
    while wanted > 0 and losing:
        rates = [cost / one.weights for (_, cost), one in zip(waiting, losing, strict=True)]
        place = int(np.argmin(rates))
        if not np.isfinite(rates[place]):
            return
        losing[place].remove(waiting[place][0])
        wanted -= losing[place].weights
        waiting[place] = losing[place].next()


class _Reader:
    """What a layer loses with each channel that it reads, relative to its output.

    obs: with V the inverse of H and B the columns of a channel, removing it costs
    tr(w_B (V_BB)^-1 w_B^T) when the other weights make up for it as they best can, and leaves
    w - w_B (V_BB)^-1 V_B and V - V_:B (V_BB)^-1 V_B: (block OBS, arXiv 2208.11580). Otherwise
    w^2 H_jj, or w^2.
    """

    def __init__(
        self, layer: WeightLayer, columns: npt.NDArray[np.intp], method: str | None
    ) -> None:
        self._columns, self._weights = columns, layer.rows[0].copy()
        h = layer.hessian.regular[0]
        power = np.diag(h) if layer.has_gram and method != "magnitude" else np.ones(len(h))
        self._obs = layer.has_gram and method in (None, "obs")
        self._inverse = np.linalg.inv(h) if self._obs else np.empty(0)
        weighed = self._weights @ h if self._obs else self._weights * power
        self._size = max(float(np.sum(weighed * self._weights)), 1e-300)
        self._plain = (self._weights**2 * power).sum(0)[columns].sum(1) / self._size

    def costs(self) -> Float64:
        """Return what each channel costs to remove now."""
        if not self._obs:
            return np.array(self._plain)
        blocks = self._inverse[self._columns[:, :, None], self._columns[:, None, :]]
        weights = self._weights[:, self._columns].transpose(1, 2, 0)  # (channels, taps, C)
        solved = np.linalg.solve(_positive(blocks), weights)
        return np.asarray(np.einsum("btc,btc->b", weights, solved) / self._size)

    def remove(self, channel: int) -> None:
        """Take a channel out; the others make up for it."""
        if not self._obs:
            return
        at = self._columns[channel]
        rows = self._inverse[at]
        solved = np.linalg.solve(_positive(rows[:, at]), rows)
        self._weights -= self._weights[:, at] @ solved
        self._inverse -= rows.T @ solved
        self._weights[:, at] = 0


def _positive(blocks: Float64) -> Float64:
    """Return blocks of an inverse with what rounding takes from their diagonal put back."""
    size = np.einsum("...kk->...k", blocks).max(-1, initial=0.0)
    return np.asarray(blocks + (1e-12 * size + 1e-300)[..., None, None] * np.eye(blocks.shape[-1]))


def _columns(layer: WeightLayer, start: int, spread: int, size: int) -> npt.NDArray[np.intp]:
    """Return which columns of a layer read each channel, (size * spread * taps,)."""
    per_channel = spread * layer.taps
    return np.arange(size * per_channel) + start * layer.taps


class _Surgery:
    """Takes channels out of the weights that make and read them."""

    def __init__(self, model: Model, layers: Sequence[WeightLayer], method: str | None) -> None:
        self._model, self._edit, self._method = model, Edit(model), method
        self._layers = [layer for layer in layers if layer.integer is None]
        self._rows: dict[int, npt.NDArray[np.bool_]] = {}
        self._kept: dict[int, npt.NDArray[np.bool_]] = {}  # columns
        self._parts: dict[int, tuple[ir.Value, int, npt.NDArray[np.bool_]]] = {}

    def remove(self, spaces: Sequence[Space], gone: dict[int, npt.NDArray[np.intp]]) -> None:
        """Remove the channels of each space."""
        for space in spaces:
            self._mark(space, gone[id(space)])
        for layer in self._layers:
            self._cut(layer)
        for value, axis, kept in self._parts.values():
            values = np.asarray(array(value))
            self._edit.store(value, np.compress(kept, values, axis=axis))

    def kept(self) -> dict[str, npt.NDArray[np.bool_]]:
        """Return which outputs stay, by the name of their layer."""
        return {x.name: self._rows[id(x)] for x in self._layers if id(x) in self._rows}

    def _mark(self, space: Space, gone: npt.NDArray[np.intp]) -> None:
        for layer in space.makers:
            kept = self._rows.setdefault(id(layer), np.ones(space.size, bool))
            kept[gone] = False
        for layer, start, spread in space.readers:
            depth = layer.rows.shape[2]
            kept = self._kept.setdefault(id(layer), np.ones(depth, bool))
            columns = _columns(layer, start, spread, space.size).reshape(space.size, -1)
            kept[columns[gone].ravel()] = False
        for value, axis, start in space.constants:
            size = np.asarray(array(value)).shape[axis]
            _, _, kept = self._parts.setdefault(id(value), (value, axis, np.ones(size, bool)))
            kept[gone + start] = False

    def _cut(self, layer: WeightLayer) -> None:
        columns, rows = self._kept.get(id(layer)), self._rows.get(id(layer))
        if columns is None and rows is None:
            return
        weights = layer.rows
        if columns is not None:
            weights = self._made_up(layer, weights, columns)[:, :, columns]
        node, shape = layer.node, list(layer.shape)
        if rows is not None:
            flat = weights.reshape(-1, weights.shape[2])[rows]
            one_each = attribute(node, "group", 1) > 1
            weights = flat[:, None] if one_each else flat[None]
            self._bias(node, rows)
            if one_each:
                node.attributes.add(ir.AttrInt64("group", int(rows.sum())))
        axis = layer.channel or 0
        shape[axis] = weights.shape[0] * weights.shape[1]
        if columns is not None:
            shape[1 - axis] = weights.shape[2] // layer.taps
        values = layer.rows_layout_for(weights.shape[0]).back(weights, tuple(shape))
        self._edit.store(layer.value, values.astype(layer.weights.dtype))

    def _made_up(
        self, layer: WeightLayer, weights: Float64, columns: npt.NDArray[np.bool_]
    ) -> Float64:
        """Return the weights with those that go at 0 and the others, and the bias, refitted."""
        pruned = weights * columns
        if not layer.has_gram or self._method in ("magnitude", "wanda"):
            return np.asarray(pruned)
        mask = np.where(columns, np.where(pruned == 0, 1e-30, pruned), 0.0)
        fitted = refit(weights[0], layer.hessian.regular[0], mask[0])[None]
        self._edit.bias(layer, weights - fitted)
        return np.asarray(fitted)

    def _bias(self, node: ir.Node, rows: npt.NDArray[np.bool_]) -> None:
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        values = array(bias)
        if bias is not None and values is not None and values.size == rows.size:
            self._edit.store(bias, np.compress(rows, values, axis=values.ndim - 1))


def _forget_shapes(model: Model) -> None:
    """Drop the inferred types of tensors inside the graph: their channels have changed."""
    for node in model.graph:
        for value in node.outputs:
            if not value.is_graph_output():
                value.type = value.shape = None
