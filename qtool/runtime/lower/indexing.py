"""Ops that pick elements by index: Gather, nearest Resize, and Pad with what is there."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from qtool.errors import UnsupportedError
from qtool.model import attribute
from qtool.runtime.lower.layout import dense
from qtool.runtime.lower.movement import moved
from qtool.runtime.lower.state import Lowering
from qtool.runtime.lower.values import Held, channels_last
from qtool.runtime.program import Array


def gather(lowering: Lowering, node: ir.Node) -> None:
    """Lower Gather along one axis; indices may be computed at run time."""
    shape = lowering.shape(node.inputs[0])
    axis = attribute(node, "axis", 0) % len(shape)
    indices = lowering.plain(node.inputs[1])
    if indices.dtype not in ("int32", "int64"):
        raise UnsupportedError(f"its indices are {indices.dtype}")

    def move(held: Held) -> Held:
        x = dense(lowering, lowering.as_plain(held))
        y_shape = (*shape[:axis], *indices.shape, *shape[axis + 1 :])
        y = lowering.make(x.dtype, y_shape)
        cut = (int(np.prod(shape[:axis])), shape[axis], int(np.prod(shape[axis + 1 :])))
        lowering.emit("Gather", [x, dense(lowering, indices)], [y], cut)
        return Held(y)

    lowering.give(node.outputs[0], moved(lowering, lowering.value(node.inputs[0]), move))


def picked(lowering: Lowering, held: Held, axis: int, indices: Array) -> Held:
    """Return the elements at these indices of one of ONNX's axes; the layout stays."""
    order = channels_last(range(len(held.shape))) if held.channels_last else range(len(held.shape))
    place = list(order).index(axis)
    x = dense(lowering, held.tensor)
    shape = x.shape
    y = lowering.make(x.dtype, (*shape[:place], len(indices), *shape[place + 1 :]))
    cut = (int(np.prod(shape[:place])), shape[place], int(np.prod(shape[place + 1 :])))
    lowering.emit("Gather", [x, lowering.constant(indices.astype(np.int32))], [y], cut)
    return Held(y, held.channels_last)


def pad_from_inside(lowering: Lowering, node: ir.Node, pads: Sequence[int], mode: str) -> None:
    """Lower Pad with modes reflect, edge and wrap: each axis picks elements it has."""
    shape = lowering.shape(node.inputs[0])
    rank = len(shape)

    def move(held: Held) -> Held:
        for axis, n in enumerate(shape):
            before, after = pads[axis], pads[axis + rank]
            if before or after:
                held = picked(lowering, held, axis, _inside(n, before, after, mode))
        return held

    lowering.give(node.outputs[0], moved(lowering, lowering.value(node.inputs[0]), move))


def _inside(n: int, before: int, after: int, mode: str) -> Array:
    at = np.arange(-before, n + after)
    if mode == "edge":
        return np.clip(at, 0, n - 1)
    if mode == "wrap":
        return at % n
    if mode != "reflect":
        raise UnsupportedError(f"its mode is {mode}")
    period = max(2 * (n - 1), 1)
    at = at % period
    return np.where(at < n, at, period - at)
