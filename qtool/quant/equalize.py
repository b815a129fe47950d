"""Cross-layer equalization: factors per channel that leave the model the same function.

Shape legend: a layer has G groups of A output and B input channels each, k weights for each pair.
See docs/accuracy.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from qtool.model import Model
from qtool.quant.plan import plan
from qtool.quant.rescale import STEPS, steps, weight_of
from qtool.quant.ties import Ids, Ties, ties

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ChannelStatistics:
    """What is known of the channels of one tensor, each (C,)."""

    minimum: Float64
    maximum: Float64
    mean: Float64
    variance: Float64

    @property
    def size(self) -> Float64:
        """The largest magnitude."""
        return np.maximum(np.abs(self.minimum), np.abs(self.maximum))


@dataclass(frozen=True)
class Layer:
    """A layer, its weight (G, A, B, k) and the variables of its channels."""

    node: ir.Node
    weight: Float64
    inputs: Ids  # (G, B)
    outputs: Ids  # (G, A)

    @cached_property
    def largest(self) -> Float64:
        """The largest |weight| of each pair of channels, (G, A, B)."""
        return np.asarray(np.abs(self.weight).max(-1, initial=0.0))

    @cached_property
    def squares(self) -> Float64:
        """The sum of squares of each pair of channels, (G, A, B)."""
        return np.asarray(np.square(self.weight).sum(-1))


@dataclass(frozen=True)
class Range:
    """Tensors that share one scale: the variable and the largest magnitude of each channel."""

    ids: Ids
    size: Float64
    values: list[ir.Value]  # whose channels these are, one after the other


@dataclass(frozen=True)
class Problem:
    """What equalization can change, and what is known.

    variance[v] is that of the values of variable v; source[i] is the index in ranges of what layer
    i reads, or -1. lower and upper bound the factors.
    """

    ties: Ties
    layers: list[Layer]
    ranges: list[Range]
    source: list[int]
    variance: Float64  # per variable
    output_variance: list[Float64]  # per layer (G, A)
    lower: Float64
    upper: Float64
    per_channel: bool  # weight scales
    levels: int = 255  # of activations
    weight_levels: int = 127


CAP = 1e4  # the largest factor


def problem(
    model: Model,
    known: dict[str, ChannelStatistics],
    *,
    per_channel: bool,
    levels: int = 255,
    weight_levels: int = 127,
) -> Problem | None:
    """Return what can be equalized in a model whose tensors have types; None where nothing can.

    known has, by tensor name, the tensors that observed_names() lists.
    """
    tied = ties(model)
    layers = [_layer(node, tied) for node in tied.layers]
    if not tied.free.any() or not layers:
        return None
    made = plan(model)
    ranges: list[Range] = []
    of: dict[ir.Value, int] = {}
    for group in made.groups:
        seen = [v for v in group.observed if v in tied.ids and v.name in known]
        if seen:
            of |= dict.fromkeys(group.members, len(ranges))
            ids = np.concatenate([tied.ids[v] for v in seen])
            size = np.concatenate([known[v.name or ""].size for v in seen])
            ranges.append(Range(ids, size, seen))
    size = np.zeros(len(tied.free))
    for one in ranges:
        np.maximum.at(size, one.ids, one.size)
    variance = np.zeros(len(tied.free))
    for value, ids in tied.ids.items():
        if value.name in known and value in of:
            np.maximum.at(variance, ids, known[value.name].variance)
    lower, upper = _bounds(tied, size)
    return Problem(
        tied, layers, ranges, [of.get(_input(one.node), -1) for one in layers], variance,
        [_output_variance(one, known, tied) for one in layers], lower, upper, per_channel,
        levels, weight_levels,
    )  # fmt: skip


def _input(node: ir.Node) -> ir.Value:
    value = node.inputs[0]
    assert value is not None
    return value


def observed_names(model: Model) -> list[str]:
    """Return the names of the tensors whose channels have to be known."""
    names = {v.name or "": None for group in plan(model).groups for v in group.observed}
    names |= {n.outputs[0].name or "": None for n in ties(model).layers}
    return list(names)


def _layer(node: ir.Node, tied: Ties) -> Layer:
    weight = weight_of(node)
    groups = len(weight)
    inputs = tied.ids[_input(node)].reshape(groups, -1)
    return Layer(node, weight, inputs, tied.ids[node.outputs[0]].reshape(groups, -1))


def _output_variance(layer: Layer, known: dict[str, ChannelStatistics], tied: Ties) -> Float64:
    found = known.get(layer.node.outputs[0].name or "")
    variance = np.ones(layer.outputs.size) if found is None else found.variance
    return variance.reshape(layer.outputs.shape)


def _bounds(tied: Ties, size: Float64) -> tuple[Float64, Float64]:
    """Return the bounds of the factors.

    What passes a Clip only grows, and at most to the limit: then the limit of each channel,
    factor * limit, is never below the range, whose saturation so does all that the Clip did.
    """
    lower, upper = np.full(len(size), 1 / CAP), np.full(len(size), CAP)
    clips = np.isfinite(tied.clipped)
    with np.errstate(divide="ignore"):
        reach = np.minimum(tied.clipped / size, CAP)
    lower[clips] = 1.0
    upper[clips] = np.maximum(reach[clips], 1.0)
    lower[~tied.free] = upper[~tied.free] = 1.0
    return lower, upper


def on_grid(problem: Problem, factors: Float64) -> Float64:
    """Return factors as powers of the grid within the bounds."""
    low, high = np.ceil(steps(problem.lower)), np.floor(steps(problem.upper))
    return np.asarray(np.exp2(np.clip(np.rint(steps(factors)), low, high) / STEPS))
