"""A model with its channels scaled and shifted: another description of the same function.

Channel x of a tensor becomes s (x - c), by the layers that make and read it: with W and b of a
layer, W' = s_out W / s_in and b' = s_out (b + W c_in - c_out). What was changed is recorded in the
metadata, so that a reference can be changed alike. See docs/accuracy.md.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from qtool import hessian
from qtool.model import BatchNormStatistics, Model, Names, add_initializer, array
from qtool.quant.offsets import offset_ties
from qtool.quant.ties import Ties, bounds, ties
from qtool.shapes import infer_shapes

log = logging.getLogger("qtool")

Float64 = npt.NDArray[np.float64]

STEPS = 16  # factors are 2 ** (k / STEPS): rounding errors cannot change them, and they are written
KEY = "qtool.equalized"  # in a model's metadata: the k of each tensor's channels, as JSON
OFFSETS = "qtool.absorbed"  # likewise e and k of each channel: the offset is k * 2 ** e


@dataclass(frozen=True)
class Change:
    """Factors s and offsets c of channels, each (C,), by the name of their tensor.

    Tensors that are not named stay as they are. Offsets are in units of the original model.
    """

    factors: Mapping[str, Float64] = field(default_factory=dict)
    offsets: Mapping[str, Float64] = field(default_factory=dict)

    def factor(self, value: ir.Value) -> Float64 | float:
        """Return s of a tensor's channels."""
        return self.factors.get(value.name or "", 1.0)

    def offset(self, value: ir.Value) -> Float64 | float:
        """Return c of a tensor's channels."""
        return self.offsets.get(value.name or "", 0.0)

    def of(self, value: ir.Value) -> bool:
        """Tell whether it changes a tensor."""
        return bool(np.any(self.factor(value) != 1.0) or np.any(self.offset(value) != 0.0))


def named(tied: Ties, values: Float64, plain: float) -> dict[str, Float64]:
    """Return the values of variables by tensor, without tensors whose all are plain."""
    found = {value.name or "": values[ids] for value, ids in tied.ids.items()}
    return {name: one for name, one in found.items() if np.any(one != plain)}


def equalized(model: Model, factors: Float64, *, fold: bool = False) -> Model:
    """Return the model with channels scaled by the factors of the variables of ties(model)."""
    return rescaled(model, Change(named(ties(model), factors, 1.0)), fold=fold)


def rescaled(model: Model, change: Change, *, fold: bool = False) -> Model:
    """Return the model with channels scaled and shifted; it computes the same.

    A Clip gets its limit per channel, as Relu and Min. With fold it stays a Clip, with the lowest
    of the limits if that is lower: right where the tensor is then quantized, for no value of the
    samples is above it. model has shapes.
    """
    result = model.copy()
    names = Names(result.graph)
    nodes = list(result.graph)
    changed = [n for n in ties(result).layers if change.of(n.outputs[0]) or change.of(_input(n))]
    for node in changed:
        _scale(node, change, names)
    known = {name: _moved(name, one, change) for name, one in model.batch_norm.items()}
    result = replace(result, batch_norm=known, statistics=None)
    _record(result, ties(model).layers, change)
    for node in nodes:
        if node.op_type == "Clip" and change.of(node.outputs[0]):
            _limit(node, change, names, fold)
    return result


def _moved(name: str, one: BatchNormStatistics, change: Change) -> BatchNormStatistics:
    s, c = change.factors.get(name, 1.0), change.offsets.get(name, 0.0)
    return BatchNormStatistics(
        np.asarray((one.mean - c) * s, np.float32), np.asarray(one.std * s, np.float32)
    )


def aligned(reference: Model, model: Model, *, fold: bool = False) -> Model:
    """Return the reference with its channels scaled and shifted as those of the model.

    So tensors of one name hold the same numbers. A model without a record gives the reference
    itself, and so does, with a warning, a reference of other tensors.
    """
    texts = {key: model.ir.metadata_props.get(key) for key in (KEY, OFFSETS)}
    done = texts.keys() & reference.ir.metadata_props.keys()
    if done or all(text is None for text in texts.values()):
        return reference
    typed = infer_shapes(reference)
    factors = _read(ties(typed), texts[KEY], _factor, 1.0)
    offsets = _read(offset_ties(typed), texts[OFFSETS], _offset, 0.0)
    if factors is None or offsets is None:
        log.warning(
            "the model is equalized, and the reference has not the tensors to do the same to: "
            "what is said of single layers does not hold; give the model that was quantized"
        )
        return reference
    return rescaled(typed, Change(factors, offsets), fold=fold)


def weight_of(node: ir.Node) -> Float64:
    """Return the weight of a layer of ties(model), (G, A, B, k).

    G groups of A output and B input channels each, k weights for each pair.
    """
    rows = hessian.rows_of(node).of(np.asarray(array(node.inputs[1]))).astype(np.float64)
    groups, n_out, _ = rows.shape
    shape = _input(node).shape
    channels = None if shape is None else shape[1]
    assert isinstance(channels, int)
    return np.asarray(rows.reshape(groups, n_out, channels // groups, -1))


def _input(node: ir.Node) -> ir.Value:
    value = node.inputs[0]
    assert value is not None
    return value


def steps(factors: Float64) -> Float64:
    """Return k of factors 2 ** (k / STEPS)."""
    return np.asarray(np.log2(factors) * STEPS)


def _record(model: Model, layers: list[ir.Node], change: Change) -> None:
    """Write what was changed: all other tensors follow from what the layers make."""
    made = [node.outputs[0].name or "" for node in layers]
    found = {n: np.rint(steps(v)).astype(int) for n, v in change.factors.items() if n in made}
    _write(model, KEY, {name: found[name].tolist() for name in made if name in found})
    shifts = {name: _grid(change.offsets[name]) for name in made if name in change.offsets}
    _write(model, OFFSETS, shifts)


def _write(model: Model, key: str, found: Mapping[str, Any]) -> None:
    if found:
        model.ir.metadata_props[key] = json.dumps(found, separators=(",", ":"))


def _grid(offsets: Float64) -> list[int]:
    """Return e and all k: the largest power of two of which all offsets are multiples."""
    e = int(np.floor(np.log2(np.abs(offsets).max()))) - 23
    k = np.rint(np.ldexp(offsets, -e)).astype(np.int64)
    while not (k & 1).any():
        k, e = k >> 1, e + 1
    return [e, *k.tolist()]


def _factor(numbers: list[Any]) -> Float64:
    k = np.array(numbers, np.int16)
    if np.abs(k).max() > 1 << 10:
        raise ValueError
    return np.asarray(np.exp2(k / STEPS))


def _offset(numbers: list[Any]) -> Float64:
    e, *k = (int(v) for v in np.array(numbers, np.int32))
    if abs(e) > 1 << 7:
        raise ValueError
    return np.asarray(np.ldexp(np.array(k, np.float64), e))


def _read(tied: Ties, text: str | None, parse: Any, plain: float) -> dict[str, Float64] | None:
    """Return what a record says, by tensor; None if it is damaged or of other tensors."""
    ids = {value.name: found for value, found in tied.ids.items()}
    values = np.full(len(tied.free), plain)
    try:
        for name, numbers in json.loads("{}" if text is None else text).items():
            found = parse(numbers)
            if found.shape != ids[name].shape:
                return None
            values[ids[name]] = found
    except (ValueError, TypeError, AttributeError, OverflowError, KeyError):
        return None
    return named(tied, values, plain) if np.all(tied.free | (values == plain)) else None


def _scale(node: ir.Node, change: Change, names: Names) -> None:
    """Give a layer the weight and bias that go with what it reads and makes."""
    weight, x, y = weight_of(node), _input(node), node.outputs[0]
    groups, n_out, n_in, _ = weight.shape
    out = np.broadcast_to(change.factor(y), groups * n_out).reshape(groups, n_out)
    inside = np.broadcast_to(change.factor(x), groups * n_in).reshape(groups, n_in)
    given = np.broadcast_to(change.offset(x), groups * n_in).reshape(groups, n_in)
    shift = np.einsum("gabk,gb->ga", weight, given).ravel() - change.offset(y)
    _set_weight(node, weight * out[:, :, None, None] / inside[:, None, :, None])
    old = array(node.inputs[2]) if len(node.inputs) > 2 else None
    if old is None and not shift.any():
        return
    bias = 0.0 if old is None else np.broadcast_to(old.astype(np.float64).ravel(), shift.shape)
    made = ((bias + shift) * out.ravel()).astype(np.float32)
    value = node.inputs[2] if old is not None else None
    if value is not None:
        value.const_value = ir.Tensor(made, name=value.name)
        value.shape = ir.Shape(made.shape)
        return
    assert node.graph is not None
    node.resize_inputs(3)
    node.replace_input_with(2, add_initializer(node.graph, names(f"{y.name}_bias"), made))


def _set_weight(node: ir.Node, weight: Float64) -> None:
    value = node.inputs[1]
    assert value is not None
    assert value.const_value is not None
    shape = tuple(value.const_value.shape.numpy())
    groups, n_out = weight.shape[:2]
    back = hessian.rows_of(node).back(weight.reshape(groups, n_out, -1), shape)
    value.const_value = ir.Tensor(back.astype(np.float32), name=value.name)


def _limit(clip: ir.Node, change: Change, names: Names, fold: bool) -> None:
    """Give a Clip(x, low, m) the limits s (m - c): as Min(Relu(x), limits), for its own is one."""
    graph, y = clip.graph, clip.outputs[0]
    assert graph is not None
    low, high = bounds(clip)
    limits = np.asarray(change.factor(y) * (high - change.offset(y)))
    if fold:
        if limits.min() < high:
            bound = add_initializer(
                graph, names(f"{y.name}_limit"), np.asarray(limits.min(), np.float32)
            )
            clip.replace_input_with(2, bound)
        return
    shape = (1, -1, *(1,) * (len(y.shape or (0, 0)) - 2))
    bound = add_initializer(
        graph, names(f"{y.name}_limits"), limits.astype(np.float32).reshape(shape)
    )
    last = ir.node("Min", [clip.inputs[0], bound], name=clip.name)
    made = [last]
    if low == 0:
        relu = ir.node("Relu", [clip.inputs[0]])
        relu.outputs[0].name = names(f"{y.name}_relu")
        relu.outputs[0].type, relu.outputs[0].shape = y.type, y.shape
        last.replace_input_with(0, relu.outputs[0])
        made = [relu, last]
    ir.convenience.replace_nodes_and_values(graph, clip, [clip], made, [y], last.outputs)
