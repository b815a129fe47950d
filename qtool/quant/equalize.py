"""Cross-layer equalization: factors per channel that leave the model the same function.

Shape legend: a layer has G groups of A output and B input channels each, k weights for each pair.
See docs/accuracy.md.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from qtool import hessian
from qtool.model import BatchNormStatistics, Model, Names, add_initializer, array
from qtool.quant.plan import plan
from qtool.quant.ties import Ids, Ties, ties
from qtool.shapes import infer_shapes

log = logging.getLogger("qtool")

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
STEPS = 16  # factors are 2 ** (k / STEPS): rounding errors cannot change them, and they are written
KEY = "qtool.equalized"  # in a model's metadata: the k of each tensor's channels, as JSON


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
            ranges.append(Range(ids, np.concatenate([known[v.name or ""].size for v in seen])))
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
    rows = hessian.rows_of(node).of(np.asarray(array(node.inputs[1]))).astype(np.float64)
    groups, n_out, _ = rows.shape
    inputs = tied.ids[_input(node)].reshape(groups, -1)
    weight = rows.reshape(groups, n_out, inputs.shape[1], -1)
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
    low, high = np.ceil(_steps(problem.lower)), np.floor(_steps(problem.upper))
    return np.asarray(np.exp2(np.clip(np.rint(_steps(factors)), low, high) / STEPS))


def _steps(factors: Float64) -> Float64:
    return np.asarray(np.log2(factors) * STEPS)


def equalized(model: Model, factors: Float64, *, fold: bool = False) -> Model:
    """Return the model with channels scaled by the factors of the variables of ties(model).

    It computes the same: a Clip gets its limit per channel, as Relu and Min. With fold it stays
    the Clip that it is, which is right where the tensor is then quantized: within the bounds of
    a Problem, the range ends before the limit of any channel. model has shapes.
    """
    result = model.copy()
    tied = ties(result)
    for layer in (_layer(node, tied) for node in tied.layers):
        _scale(layer, factors)
    scale = {v.name: factors[ids] for v, ids in tied.ids.items()}
    known = {
        name: BatchNormStatistics(
            (one.mean * scale[name]).astype(np.float32), (one.std * scale[name]).astype(np.float32)
        )
        for name, one in model.batch_norm.items()
        if name in scale
    }
    result = replace(result, batch_norm={**model.batch_norm, **known}, statistics=None)
    result.ir.metadata_props[KEY] = _record(tied, factors)
    names = Names(result.graph)
    if fold:
        return result
    for node in [n for n in result.graph if n.op_type == "Clip"]:
        ids = tied.ids.get(node.outputs[0])
        if ids is not None and np.any(factors[ids] != 1):
            _limit_per_channel(node, factors[ids], names)
    return result


def _record(tied: Ties, factors: Float64) -> str:
    found = {}
    for node in tied.layers:
        steps = np.rint(_steps(factors[tied.ids[node.outputs[0]]])).astype(int)
        if steps.any():
            found[node.outputs[0].name] = steps.tolist()
    return json.dumps(found, separators=(",", ":"))


def aligned(reference: Model, model: Model, *, fold: bool = False) -> Model:
    """Return the reference with its channels scaled as those of the equalized model.

    So tensors of one name hold the same numbers. A model that is not equalized gives the
    reference itself, and so does, with a warning, a reference of other tensors.
    """
    text = model.ir.metadata_props.get(KEY)
    if text is None or KEY in reference.ir.metadata_props:
        return reference
    typed = infer_shapes(reference)
    factors = _recorded(ties(typed), text)
    if factors is None:
        log.warning(
            "the model is equalized, and the reference has not the tensors to do the same to: "
            "what is said of single layers does not hold; give the model that was quantized"
        )
        return reference
    return equalized(typed, factors, fold=fold)


def _recorded(tied: Ties, text: str) -> Float64 | None:
    """Return the factors that a record says; None if it is damaged or of other tensors."""
    try:
        record = {name: np.array(steps, np.int16) for name, steps in json.loads(text).items()}
    except (ValueError, TypeError, AttributeError, OverflowError):
        return None
    ids = {value.name: found for value, found in tied.ids.items()}
    factors = np.ones(len(tied.free))
    for name, steps in record.items():
        if name not in ids or steps.shape != ids[name].shape or np.abs(steps).max() > 1 << 10:
            return None
        factors[ids[name]] = np.exp2(steps / STEPS)
    return factors if np.all(tied.free | (factors == 1)) else None


def _scale(layer: Layer, factors: Float64) -> None:
    node = layer.node
    out, inside = factors[layer.outputs], factors[layer.inputs]
    _set(node, 1, layer.weight * out[:, :, None, None] / inside[:, None, :, None])
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        bias = np.asarray(array(node.inputs[2])).astype(np.float64)
        scaled = np.broadcast_to(bias.ravel(), out.size) * out.ravel()
        value = node.inputs[2]
        value.const_value = ir.Tensor(scaled.astype(np.float32), name=value.name)
        value.shape = ir.Shape(scaled.shape)


def _set(node: ir.Node, index: int, weight: Float64) -> None:
    value = node.inputs[index]
    assert value is not None
    assert value.const_value is not None
    shape = tuple(value.const_value.shape.numpy())
    groups, n_out = weight.shape[:2]
    back = hessian.rows_of(node).back(weight.reshape(groups, n_out, -1), shape)
    value.const_value = ir.Tensor(back.astype(np.float32), name=value.name)


def _limit_per_channel(clip: ir.Node, factors: Float64, names: Names) -> None:
    """Replace Clip(x, 0, m) by Min(Relu(x), factors * m): the limits of a Clip are numbers."""
    graph, y = clip.graph, clip.outputs[0]
    assert graph is not None
    shape = (1, -1, *(1,) * (len(y.shape or (0, 0)) - 2))
    limit = float(np.asarray(array(clip.inputs[2])).ravel()[0])
    limits = (factors * limit).astype(np.float32).reshape(shape)
    bound = add_initializer(graph, names(f"{y.name}_limits"), limits)
    relu = ir.node("Relu", [clip.inputs[0]])
    relu.outputs[0].name = names(f"{y.name}_relu")
    relu.outputs[0].type, relu.outputs[0].shape = y.type, y.shape
    last = ir.node("Min", [relu.outputs[0], bound], name=clip.name)
    ir.convenience.replace_nodes_and_values(graph, clip, [clip], [relu, last], [y], last.outputs)
