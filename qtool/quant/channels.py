"""Which axis of which op's weight runs over its output channels, and which over its depth.

Shape legend: as in ONNX's operator specification. N output channels, K depth summed over.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from qtool.model import attribute
from qtool.qparams import Float32

# Op type -> the inputs that are weights.
WEIGHTS: dict[str, tuple[int, ...]] = {
    "Conv": (1,),
    "ConvTranspose": (1,),
    "Gemm": (1, 0),
    "MatMul": (1, 0),
    "Gather": (0,),
    "LSTM": (1, 2),
    "GRU": (1, 2),
    "RNN": (1, 2),
}


def channel_axis(node: ir.Node, index: int, shape: Sequence[int]) -> int | None:
    """Return the axis of the node's weight input that has one scale per slice, or None.

    One scale per slice along it can be pulled out of the sum over the depth, so that integers
    can be multiplied. Exceptions, right only where weights are dequantized first: Gather, whose
    rows are looked up, and an LSTM, GRU or RNN with two directions, which share the scale.

    A ConvTranspose weight has shape (C_in, C_out / groups, ...): output channel g*M + m uses
    slice m of axis 1 of group g alone. With one input channel per group, axis 0 runs over the
    groups and is the finer one when M is 1.
    """
    rank = len(shape)
    if node.op_type == "ConvTranspose":
        return 0 if shape[1] == 1 and attribute(node, "group", 1) == shape[0] else 1
    if node.op_type == "Gemm":
        channels_first = attribute(node, "transA" if index == 0 else "transB", 0) == (index == 1)
        return 0 if channels_first else 1
    if node.op_type == "MatMul":
        return None if rank < 2 else rank - 1 if index == 1 else rank - 2
    if node.op_type == "Gather":
        return _gather_axis(node, rank)
    return 0 if node.op_type == "Conv" else 1


def depth_axis(node: ir.Node, index: int, shape: Sequence[int]) -> int:
    """Return the axis of the weight that is summed over, along which blocks are cut."""
    rank = len(shape)
    if node.op_type == "ConvTranspose":
        return 0
    if node.op_type == "Gemm":
        return 1 - (channel_axis(node, index, shape) or 0)
    if node.op_type == "MatMul":
        return 0 if rank < 2 else rank - 2 if index == 1 else rank - 1
    if node.op_type == "Gather":
        return _gather_axis(node, rank) or 0
    return 1 if node.op_type == "Conv" else 2


def output_scale(node: ir.Node, scale: Float32, axis: int | None) -> Float32:
    """Return the weight's scale per output channel, of shape () or (C_out,).

    It differs from scale only for a ConvTranspose with groups, where axis 1 repeats per group.
    """
    groups = attribute(node, "group", 1)
    if node.op_type == "ConvTranspose" and axis == 1 and groups > 1:
        return np.tile(scale, groups)
    return scale


def _gather_axis(node: ir.Node, rank: int) -> int | None:
    """Return the last axis that is not the one looked up; None where there is no other."""
    looked_up = attribute(node, "axis", 0) % rank
    others = [axis for axis in range(rank) if axis != looked_up]
    return others[-1] if others else None
