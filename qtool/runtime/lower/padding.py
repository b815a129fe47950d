"""Pad."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from qtool.errors import UnsupportedError
from qtool.model import attribute
from qtool.runtime.lower.indexing import pad_from_inside
from qtool.runtime.lower.state import Lowering
from qtool.runtime.lower.values import Dequantized, Held, channels_last
from qtool.runtime.program import Loop, Walk


def pad(lowering: Lowering, node: ir.Node) -> None:
    """Lower Pad: with a constant a fill and a copy, otherwise by picking elements."""
    shape = lowering.shape(node.inputs[0])
    pads, real = _pads(lowering, node, len(shape))
    mode = attribute(node, "mode", "constant")
    if not any(pads):
        lowering.give(node.outputs[0], lowering.value(node.inputs[0]))
        return
    if mode != "constant":
        pad_from_inside(lowering, node, pads, mode)
        return
    found = lowering.value(node.inputs[0])
    quantized = lowering.quantized(node.inputs[0]) if real == 0 else None
    if quantized is not None and isinstance(found, Dequantized):
        x = Held(quantized.tensor, quantized.channels_last)
        made = _padded(lowering, x, pads, quantized.zero_point)
        held = Held(made.tensor, made.channels_last, found.qparams.dtype == "int8")
        lowering.give(node.outputs[0], Dequantized(held, found.qparams))
        return
    held = lowering.held(node.inputs[0])
    element = np.array(real, held.tensor.dtype)
    bits = int.from_bytes(element.tobytes(), "little")
    lowering.give(node.outputs[0], _padded(lowering, held, pads, bits))


def _pads(lowering: Lowering, node: ir.Node, rank: int) -> tuple[list[int], float]:
    value = lowering.known(node.inputs[2]) if len(node.inputs) > 2 else None
    if len(node.inputs) > 2 and node.inputs[2] is not None and value is None:
        raise UnsupportedError("its value is computed at run time")
    real = attribute(node, "value", 0.0) if value is None else value.reshape(-1)[0].item()
    if len(node.inputs) < 2:
        return list(attribute(node, "pads") or attribute(node, "paddings")), real
    given = [int(p) for p in lowering.need(node.inputs[1], "pads").reshape(-1)]
    if len(node.inputs) < 4 or node.inputs[3] is None:
        return given, real
    pads = [0] * 2 * rank
    axes = [int(a) % rank for a in lowering.need(node.inputs[3], "axes").reshape(-1)]
    for k, axis in enumerate(axes):
        pads[axis], pads[axis + rank] = given[k], given[k + len(axes)]
    return pads, real


def _padded(lowering: Lowering, held: Held, pads: Sequence[int], bits: int) -> Held:
    rank = len(held.shape)
    begin, end = pads[:rank], pads[rank:]
    if held.channels_last:
        begin, end = channels_last(begin), channels_last(end)
    x = held.tensor
    y = lowering.make(x.dtype, [b + n + e for b, n, e in zip(begin, x.shape, end, strict=True)])
    lowering.emit("Fill", [], [y], [bits - (1 << 64) if bits >> 63 else bits])
    x_start = tuple(max(-b, 0) for b in begin)  # negative pads crop
    y_start = tuple(max(b, 0) for b in begin)
    dims = [n + min(b, 0) + min(e, 0) for b, n, e in zip(begin, x.shape, end, strict=True)]
    loops = tuple(Loop(n, i, 1, i, 1) for i, n in enumerate(dims))
    lowering.emit("Copy", [x], [y], walk=Walk(loops, x_start, y_start))
    return Held(y, held.channels_last)
