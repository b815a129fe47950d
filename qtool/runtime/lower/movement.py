"""Ops that only move elements: they do the same to integers, whatever these stand for."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from qtool.errors import UnsupportedError
from qtool.model import attribute
from qtool.qparams import QParams
from qtool.runtime.lower.layout import dense
from qtool.runtime.lower.outputs import output_of
from qtool.runtime.lower.state import Lowering
from qtool.runtime.lower.values import (
    Dequantized,
    Held,
    Known,
    Value,
    channels_last,
    is_byte,
    zeros,
)
from qtool.runtime.program import Loop, Walk

Move = Callable[[Held], Held]


def apply(lowering: Lowering, node: ir.Node, move: Move, output: int = 0) -> None:
    """Give an output what move makes of the first input, dequantized or not."""
    lowering.give(node.outputs[output], moved(lowering, lowering.value(node.inputs[0]), move))


def moved(lowering: Lowering, found: Value, move: Move) -> Value:
    """Return what move makes of a value in memory, in the same form."""
    if isinstance(found, Dequantized):
        if found.qparams.scale.ndim:
            return move(lowering.as_held(found))
        q, params = (
            (found.q, found.qparams) if isinstance(found.q, Held) else _stored(lowering, found)
        )
        return Dequantized(_like(move(q), q), params, found.reals)
    held = found if isinstance(found, Held) else Held(lowering.constant(found.array))
    return _like(move(held), held)


def _stored(lowering: Lowering, found: Dequantized) -> tuple[Held, QParams]:
    """Return constant integers in memory; those of 4 bits as int8 or uint8."""
    assert isinstance(found.q, Known)
    array, name = found.q.array, found.qparams.dtype
    stored = {"int4": "int8", "uint4": "uint8"}.get(name, name)
    held = Held(lowering.constant(array.astype(stored) if stored != name else array))
    return held, replace(found.qparams, dtype=stored)


def _like(made: Held, source: Held) -> Held:
    return Held(made.tensor, made.channels_last, source.shifted)


def reshape(lowering: Lowering, node: ir.Node) -> None:
    """Lower Reshape, Flatten, Squeeze, Unsqueeze and Identity."""
    shape = lowering.shape(node.inputs[0])
    wanted = _wanted(lowering, node, shape)
    if 0 in wanted:
        raise UnsupportedError("it makes a tensor without elements")
    apply(lowering, node, lambda held: reshaped(lowering, held, wanted))


def reshaped(lowering: Lowering, held: Held, shape: Sequence[int]) -> Held:
    """Return the same elements in another shape, without a copy where the layout allows it."""
    old = held.shape
    if tuple(shape) == old:
        return held
    if held.channels_last and len(shape) > 2 and tuple(shape[:2]) == old[:2]:
        return Held(dense(lowering, held.tensor).viewed(channels_last(shape)), True)
    return Held(dense(lowering, lowering.as_plain(held)).viewed(shape))


def _wanted(lowering: Lowering, node: ir.Node, shape: tuple[int, ...]) -> tuple[int, ...]:
    if node.op_type == "Dropout":
        _require_inference(lowering, node)
    if node.op_type in ("Identity", "Dropout"):
        return shape
    if node.op_type == "Flatten":
        axis = attribute(node, "axis", 1)
        axis = axis + len(shape) if axis < 0 else axis
        return (math.prod(shape[:axis]), math.prod(shape[axis:]))
    if node.op_type == "Reshape":
        return _reshape_dims(lowering, node, shape)
    axes = _axes(lowering, node)
    if node.op_type == "Squeeze":
        if axes is None:
            return tuple(n for n in shape if n != 1)
        drop = {a % len(shape) for a in axes}
        return tuple(n for i, n in enumerate(shape) if i not in drop)
    rank = len(shape) + len(axes or ())
    added, rest = {a % rank for a in axes or ()}, iter(shape)
    return tuple(1 if i in added else next(rest) for i in range(rank))


def _require_inference(lowering: Lowering, node: ir.Node) -> None:
    value = node.inputs[2] if len(node.inputs) > 2 else None
    if value is not None and lowering.need(value, "training_mode").any():
        raise UnsupportedError("it is in training mode")


def _reshape_dims(lowering: Lowering, node: ir.Node, shape: tuple[int, ...]) -> tuple[int, ...]:
    dims = [int(d) for d in lowering.need(node.inputs[1], "shape").reshape(-1)]
    if not attribute(node, "allowzero", 0):
        dims = [shape[i] if d == 0 else d for i, d in enumerate(dims)]
    if -1 in dims:
        rest = math.prod(d for d in dims if d != -1)
        dims[dims.index(-1)] = math.prod(shape) // rest if rest else 0
    if math.prod(dims) != math.prod(shape):
        raise UnsupportedError(f"{list(shape)} does not reshape to {dims}")
    return tuple(dims)


def _axes(lowering: Lowering, node: ir.Node) -> list[int] | None:
    if len(node.inputs) > 1 and node.inputs[1] is not None:
        return [int(a) for a in lowering.need(node.inputs[1], "axes").reshape(-1)]
    axes = attribute(node, "axes")
    return None if axes is None else list(axes)


def transpose(lowering: Lowering, node: ir.Node) -> None:
    """Lower Transpose; often only the name of the layout changes."""
    rank = len(lowering.shape(node.inputs[0]))
    order = tuple(attribute(node, "perm") or range(rank)[::-1])
    found = lowering.value(node.inputs[0])
    if isinstance(found, Dequantized) and isinstance(found.q, Known):  # a weight
        axis = found.qparams.axis
        params = found.qparams
        if axis is not None:
            params = replace(params, axis=order.index(axis % rank))
        if found.block:
            scale, zero = params.scale.transpose(order), zeros(found).transpose(order)
            params = replace(params, scale=scale, zero_point=zero)
        integers = Known(found.q.array.transpose(order))
        lowering.give(node.outputs[0], Dequantized(integers, params, block=found.block))
        return
    apply(lowering, node, lambda held: _transposed(lowering, held, order))


def _transposed(lowering: Lowering, held: Held, order: tuple[int, ...]) -> Held:
    axes = channels_last(range(len(order))) if held.channels_last else tuple(range(len(order)))
    if axes == order:
        return Held(held.tensor)
    if axes == channels_last(order):
        return Held(held.tensor, channels_last=True)
    return Held(lowering.transposed(held.tensor, [axes.index(axis) for axis in order]))


def concat(lowering: Lowering, node: ir.Node) -> None:
    """Lower Concat, of integers where all are such; inputs of other qparams go through a table."""
    axis = attribute(node, "axis", 0)
    values = [lowering.value(v) for v in node.inputs if v is not None]
    output = output_of(lowering, node.outputs[0])
    integers = [v for v in values if is_byte(v)]
    if output is not None and len(integers) == len(values):
        parts = [lowering.requantized(v, output.qparams) for v in integers]
        made = joined(lowering, parts, axis)
        output.give(lowering, made.tensor, channels_last=made.channels_last)
        return
    lowering.give(node.outputs[0], joined(lowering, [lowering.held(v) for v in node.inputs], axis))


def joined(lowering: Lowering, parts: Sequence[Held], axis: int) -> Held:
    """Return the parts one after the other along one of ONNX's axes."""
    rank = len(parts[0].shape)
    last = any(p.channels_last for p in parts)
    tensors = [lowering.as_last(p) if last else lowering.as_plain(p) for p in parts]
    order = channels_last(range(rank)) if last else tuple(range(rank))
    at_axis = order.index(axis % rank)
    shape = list(tensors[0].shape)
    shape[at_axis] = sum(t.shape[at_axis] for t in tensors)
    y = lowering.make(tensors[0].dtype, shape)
    at = 0
    for tensor in tensors:
        start = tuple(at if i == at_axis else 0 for i in range(rank))
        loops = tuple(Loop(n, i, 1, i, 1) for i, n in enumerate(tensor.shape))
        lowering.emit("Copy", [tensor], [y], walk=Walk(loops, (0,) * rank, start))
        at += tensor.shape[at_axis]
    return Held(y, last)


def slice_(lowering: Lowering, node: ir.Node) -> None:
    """Lower Slice with known bounds."""
    shape = lowering.shape(node.inputs[0])
    starts, steps, dims = _slice_bounds(lowering, node, shape)
    if 0 in dims:
        raise UnsupportedError("it makes a tensor without elements")
    apply(lowering, node, lambda held: sliced(lowering, held, starts, steps, dims))


def sliced(
    lowering: Lowering, held: Held, starts: Sequence[int], steps: Sequence[int], dims: Sequence[int]
) -> Held:
    """Return the elements starts + i * steps of each axis, for i below dims."""
    if tuple(dims) == held.shape and all(s == 1 for s in steps):
        return held
    if held.channels_last:
        starts, steps, dims = channels_last(starts), channels_last(steps), channels_last(dims)
    x = held.tensor
    y = lowering.make(x.dtype, dims)
    loops = tuple(
        Loop(n, i, step, i, 1) for i, (n, step) in enumerate(zip(dims, steps, strict=True))
    )
    lowering.emit("Copy", [x], [y], walk=Walk(loops, tuple(starts), (0,) * len(dims)))
    return Held(y, held.channels_last)


def _slice_bounds(
    lowering: Lowering, node: ir.Node, shape: tuple[int, ...]
) -> tuple[list[int], list[int], list[int]]:
    given: list[list[int] | None] = []
    for i, name in enumerate(("starts", "ends", "axes", "steps"), 1):
        value = node.inputs[i] if i < len(node.inputs) else None
        if value is not None:
            given.append([int(v) for v in lowering.need(value, name).reshape(-1)])
        else:
            given.append(attribute(node, name))
    begins, ends, axes, by = given
    assert begins is not None
    assert ends is not None
    starts, steps, dims = [0] * len(shape), [1] * len(shape), list(shape)
    for k, axis in enumerate(axes or range(len(begins))):
        chosen = range(shape[axis])[begins[k] : ends[k] : by[k] if by else 1]
        starts[axis], steps[axis], dims[axis] = chosen.start, chosen.step, len(chosen)
    return starts, steps, dims


def split(lowering: Lowering, node: ir.Node) -> None:
    """Lower Split."""
    shape = lowering.shape(node.inputs[0])
    axis = attribute(node, "axis", 0) % len(shape)
    n, total = len(node.outputs), shape[axis]
    if len(node.inputs) > 1 and node.inputs[1] is not None:
        sizes = [int(s) for s in lowering.need(node.inputs[1], "split").reshape(-1)]
    else:
        each = -(-total // n)
        sizes = attribute(node, "split") or [*[each] * (n - 1), total - each * (n - 1)]
    at = 0
    for i, size in enumerate(sizes):
        starts = [at if a == axis else 0 for a in range(len(shape))]
        dims = [size if a == axis else d for a, d in enumerate(shape)]

        def part(held: Held, starts: list[int] = starts, dims: list[int] = dims) -> Held:
            return sliced(lowering, held, starts, [1] * len(dims), dims)

        apply(lowering, node, part, i)
        at += size


def expand(lowering: Lowering, node: ir.Node) -> None:
    """Lower Expand and Tile."""
    shape = lowering.shape(node.inputs[0])
    wanted = [int(d) for d in lowering.need(node.inputs[1], "shape").reshape(-1)]
    if node.op_type == "Tile":
        repeats = wanted
        apply(lowering, node, lambda held: _tiled(lowering, held, repeats))
        return
    dims = np.broadcast_shapes(shape, tuple(wanted))
    apply(lowering, node, lambda held: _expanded(lowering, held, dims))


def _expanded(lowering: Lowering, held: Held, dims: tuple[int, ...]) -> Held:
    if dims == held.shape:
        return held
    plain = lowering.as_plain(held)
    x = plain.viewed((*[1] * (len(dims) - len(plain.shape)), *plain.shape))
    y = lowering.make(x.dtype, dims)
    loops = tuple(Loop(n, i, 0 if x.shape[i] == 1 else 1, i, 1) for i, n in enumerate(dims))
    zeros = (0,) * len(dims)
    lowering.emit("Copy", [x], [y], walk=Walk(loops, zeros, zeros))
    return Held(y)


def _tiled(lowering: Lowering, held: Held, repeats: Sequence[int]) -> Held:
    for axis, times in enumerate(repeats):
        if times != 1:
            held = joined(lowering, [held] * times, axis)
    return held


def depth_to_space(lowering: Lowering, node: ir.Node) -> None:
    """Lower DepthToSpace, in either order of the channels."""
    n, c, h, w = lowering.shape(node.inputs[0])
    b = attribute(node, "blocksize")
    made = c // (b * b)
    first = attribute(node, "mode", "DCR") == "DCR"
    steps = (b * made, made, 1) if first else (b, 1, b * b)  # of block row, block column, channel

    def move(held: Held) -> Held:
        x = lowering.as_last(held)
        y = lowering.make(x.dtype, (n, h * b, w * b, made))
        loops = (
            Loop(n, 0, 1, 0, 1), Loop(h, 1, 1, 1, b), Loop(b, 3, steps[0], 1, 1),
            Loop(w, 2, 1, 2, b), Loop(b, 3, steps[1], 2, 1), Loop(made, 3, steps[2], 3, 1),
        )  # fmt: skip
        lowering.emit("Copy", [x], [y], walk=Walk(loops, (0,) * 4, (0,) * 4))
        return Held(y, channels_last=True)

    apply(lowering, node, move)


def space_to_depth(lowering: Lowering, node: ir.Node) -> None:
    """Lower SpaceToDepth."""
    n, c, h, w = lowering.shape(node.inputs[0])
    b = attribute(node, "blocksize")
    if attribute(node, "mode", "DCR") != "DCR" or h % b or w % b:
        raise UnsupportedError("its channels go first, or its blocks do not fit")

    def move(held: Held) -> Held:
        x = lowering.as_last(held)
        y = lowering.make(x.dtype, (n, h // b, w // b, b * b * c))
        loops = (
            Loop(n, 0, 1, 0, 1), Loop(h // b, 1, b, 1, 1), Loop(b, 1, 1, 3, b * c),
            Loop(w // b, 2, b, 2, 1), Loop(b, 2, 1, 3, c), Loop(c, 3, 1, 3, 1),
        )  # fmt: skip
        lowering.emit("Copy", [x], [y], walk=Walk(loops, (0,) * 4, (0,) * 4))
        return Held(y, channels_last=True)

    apply(lowering, node, move)
