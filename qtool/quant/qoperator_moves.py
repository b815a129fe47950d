"""Ops that only move elements, or select them by order: they run on the integers as they are."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from qtool.model import array, attribute
from qtool.quant.qdq_chains import clamp_bounds, zero_point
from qtool.quant.qoperator_forms import NoFormError, Quantized, Site

Array = npt.NDArray[Any]

MOVES = (
    "MaxPool", "ReduceMax", "ReduceMin", "Transpose", "Reshape", "Flatten", "Squeeze",
    "Unsqueeze", "Slice", "Split", "Gather", "GatherElements", "GatherND", "Expand", "Tile",
    "Identity", "Pad", "Resize", "DepthToSpace", "SpaceToDepth", "Clip",
)  # fmt: skip


def move_inputs(site: Site) -> dict[int, Array]:
    """Return the float constants that a move reads beside its data, quantized; by input index.

    Raises:
        NoFormError: the move would not give the same elements on the integers.
    """
    node, x = site.node, site.data()
    if len(node.outputs) > 1 and node.op_type != "Split":
        raise NoFormError("it has a second output")
    if node.op_type == "Resize" and attribute(node, "mode", "nearest") != "nearest":
        raise NoFormError("interpolating integers rounds differently")
    if node.op_type == "Pad" and attribute(node, "mode", "constant") == "constant":
        value = node.inputs[2] if len(node.inputs) > 2 else None
        known = np.zeros((), np.float32) if value is None else array(value)
        if known is None:
            raise NoFormError("its padding value is computed at run time")
        return {2: _integer(x, float(known.reshape(-1)[0]))}
    if node.op_type == "Clip":
        low, high = clamp_bounds(node)
        if np.isnan(low) or np.isnan(high):
            raise NoFormError("its bounds are computed at run time")
        return {1: _integer(x, low), 2: _integer(x, high)}
    return {}


def _integer(x: Quantized, real: float) -> Array:
    """Return a real number as x's integers have it."""
    scale, zero = array(x.scale), zero_point(x.node)
    if scale is None or zero is None:
        raise NoFormError("its qparams are computed at run time")
    dtype = zero.dtype if x.dtype is None else x.dtype.numpy()
    limits = np.iinfo(dtype)
    steps = np.rint(np.float32(real) / scale.reshape(-1)[0]) + float(zero.reshape(-1)[0])
    return np.asarray(np.clip(steps, limits.min, limits.max)).astype(dtype)
