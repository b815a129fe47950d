"""Resize and Upsample: nearest on any type, linear on float32."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from qtool.errors import UnsupportedError
from qtool.model import attribute
from qtool.runtime.lower.indexing import picked
from qtool.runtime.lower.layout import dense
from qtool.runtime.lower.movement import moved
from qtool.runtime.lower.state import Lowering
from qtool.runtime.lower.values import Held, channels_last

Float64 = npt.NDArray[np.float64]


def resize(lowering: Lowering, node: ir.Node) -> None:
    """Lower Resize, one axis after the other."""
    shape = lowering.shape(node.inputs[0])
    mode = attribute(node, "mode", "nearest")
    if mode not in ("nearest", "linear") or attribute(node, "antialias", 0):
        raise UnsupportedError(f"its mode is {mode}, or antialiased")
    sizes, scales = _sizes(lowering, node, shape)
    changed = [i for i, (a, b) in enumerate(zip(shape, sizes, strict=True)) if a != b]
    positions = {i: _positions(node, shape[i], sizes[i], scales[i]) for i in changed}
    if mode == "nearest":
        indices = {i: _nearest(node, at, shape[i]) for i, at in positions.items()}

        def move(held: Held) -> Held:
            for axis, chosen in indices.items():
                held = picked(lowering, held, axis, chosen)
            return held

        lowering.give(node.outputs[0], moved(lowering, lowering.value(node.inputs[0]), move))
        return
    held = lowering.held(node.inputs[0])
    if held.dtype != "float32":
        raise UnsupportedError(f"it interpolates {held.dtype}")
    for axis, at in positions.items():
        held = _interpolated(lowering, held, axis, at)
    lowering.give(node.outputs[0], held)


def _sizes(
    lowering: Lowering, node: ir.Node, shape: tuple[int, ...]
) -> tuple[list[int], list[float]]:
    """Return the output size and the scale of each axis."""
    inputs = [lowering.known(v) if v is not None else None for v in node.inputs[1:]]
    if node.op_type == "Upsample" or lowering.opset < 11:
        scales, sizes = inputs[0] if inputs else np.array(attribute(node, "scales")), None
    else:
        scales = inputs[1] if len(inputs) > 1 else None
        sizes = inputs[2] if len(inputs) > 2 else None
    axes = [a % len(shape) for a in attribute(node, "axes") or range(len(shape))]
    made, factors = list(shape), [1.0] * len(shape)
    if sizes is not None and sizes.size:
        if attribute(node, "keep_aspect_ratio_policy", "stretch") != "stretch":
            raise UnsupportedError("it keeps the aspect ratio")
        for axis, size in zip(axes, sizes, strict=True):
            made[axis], factors[axis] = int(size), int(size) / shape[axis]
    elif scales is not None and scales.size:
        for axis, scale in zip(axes, scales, strict=True):
            made[axis] = int(np.floor(shape[axis] * np.float32(scale)))
            factors[axis] = float(np.float32(scale))
    else:
        raise UnsupportedError("its sizes are computed at run time")
    return made, factors


def _positions(node: ir.Node, size: int, made: int, scale: float) -> Float64:
    """Return where in the input each output lies."""
    default = "asymmetric" if node.op_type == "Upsample" else "half_pixel"
    mode = attribute(node, "coordinate_transformation_mode", default)
    at = np.arange(made, dtype=np.float64)
    if mode == "half_pixel":
        return (at + 0.5) / scale - 0.5
    if mode == "half_pixel_symmetric":
        adjustment = made / (scale * size)
        return size / 2 * (1 - adjustment) + (at + 0.5) / scale - 0.5
    if mode == "pytorch_half_pixel":
        return (at + 0.5) / scale - 0.5 if made > 1 else np.zeros(made)
    if mode == "align_corners":
        return at * ((size - 1) / (made - 1)) if made > 1 else np.zeros(made)
    if mode == "asymmetric":
        return at / scale
    raise UnsupportedError(f"its coordinate_transformation_mode is {mode}")


def _nearest(node: ir.Node, at: Float64, size: int) -> npt.NDArray[np.int64]:
    default = "floor" if node.op_type == "Upsample" else "round_prefer_floor"
    mode = attribute(node, "nearest_mode", default)
    rounded = {
        "round_prefer_floor": lambda: np.ceil(at - 0.5),
        "round_prefer_ceil": lambda: np.floor(at + 0.5),
        "floor": lambda: np.floor(at),
        "ceil": lambda: np.ceil(at),
    }[mode]()
    return np.clip(rounded, 0, size - 1).astype(np.int64)


def _interpolated(lowering: Lowering, held: Held, axis: int, at: Float64) -> Held:
    rank = len(held.shape)
    order: Sequence[int] = channels_last(range(rank)) if held.channels_last else range(rank)
    place = list(order).index(axis)
    x = dense(lowering, held.tensor)
    shape, size = x.shape, x.shape[place]
    inside = np.clip(at, 0, size - 1)
    low = np.floor(inside).astype(np.int32)
    high = np.minimum(low + 1, size - 1).astype(np.int32)
    part = (inside - low).astype(np.float32)
    y = lowering.make("float32", (*shape[:place], len(at), *shape[place + 1 :]))
    cut = (int(np.prod(shape[:place])), size, int(np.prod(shape[place + 1 :])))
    constants = [lowering.constant(v) for v in (low, high, part)]
    lowering.emit("ResizeLinear", [x, *constants], [y], cut)
    return Held(y, held.channels_last)
