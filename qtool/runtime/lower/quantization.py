"""QuantizeLinear, DequantizeLinear and DynamicQuantizeLinear."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from qtool.errors import UnsupportedError
from qtool.model import attribute, dtype_name
from qtool.qparams import QParams, quantize
from qtool.runtime.lower.layout import dense
from qtool.runtime.lower.outputs import BYTES, WIDE, qparams_of
from qtool.runtime.lower.state import Lowering, scalar_qparams
from qtool.runtime.lower.values import Dequantized, Held, Known, is_byte
from qtool.runtime.program import Tensor


def dequantize_linear(lowering: Lowering, node: ir.Node) -> None:
    """Remember it: most readers want the integers."""
    q = lowering.value(node.inputs[0])
    assert not isinstance(q, Dequantized)
    block = attribute(node, "block_size", 0) if isinstance(q, Known) else 0
    qparams = qparams_of(lowering, node, blocks=block > 0)
    if qparams is not None:
        lowering.give(node.outputs[0], Dequantized(q, qparams, block=block))
        return
    held = lowering.held(node.inputs[0])
    scale, zero, axis = _run_time_parameters(lowering, node)
    x = dense(lowering, lowering.as_plain(held))
    if x.dtype not in (*WIDE, "int32"):
        raise UnsupportedError(f"it dequantizes {x.dtype}")
    y = lowering.slices("DequantizeWide", x, scale, zero, axis, "float32")
    lowering.give(node.outputs[0], Held(y))


def quantize_linear(lowering: Lowering, node: ir.Node) -> None:
    """Quantize floats, or make other integers of integers by a table; none when they agree."""
    qparams = qparams_of(lowering, node)
    if qparams is None:
        _quantize_at_run_time(lowering, node)
        return
    known = lowering.known(node.inputs[0])
    if known is not None:
        integers = quantize(known.astype(np.float32), qparams).astype(qparams.dtype)
        lowering.give(node.outputs[0], Known(integers))
        return
    value = lowering.value(node.inputs[0])
    if _stays(value, qparams):
        assert isinstance(value, Dequantized)
        lowering.give(node.outputs[0], value.q)
        return
    if qparams.dtype not in BYTES or qparams.scale.ndim:
        _quantize_slices(lowering, node, qparams)
        return
    if is_byte(value):
        lowering.give(node.outputs[0], lowering.requantized(value, qparams))
        return
    held = _floats(lowering, node)
    scale, zero = scalar_qparams(qparams)
    y = lowering.make("uint8", held.tensor.shape)
    lowering.emit("Quantize", [held.tensor], [y], [zero, 0, 255, 0], [float(scale)])
    lowering.give(node.outputs[0], Held(y, held.channels_last, qparams.dtype == "int8"))


def dynamic_quantize_linear(lowering: Lowering, node: ir.Node) -> None:
    """Quantize by the range that is found at run time."""
    held = _floats(lowering, node)
    x = dense(lowering, held.tensor)
    y = lowering.make("uint8", x.shape)
    scale, zero = lowering.make("float32", ()), lowering.make("uint8", ())
    lowering.emit("DynamicQuantize", [x], [y, scale, zero])
    lowering.give(node.outputs[0], Held(y, held.channels_last))
    for value, tensor in zip(node.outputs[1:], (scale, zero), strict=False):
        lowering.give(value, Held(tensor))


def _floats(lowering: Lowering, node: ir.Node) -> Held:
    held = lowering.held(node.inputs[0])
    if held.dtype != "float32":
        raise UnsupportedError(f"it quantizes {held.dtype}")
    return held


def _stays(value: object, qparams: QParams) -> bool:
    """Return whether these are the integers already, of 16 bits."""
    if not isinstance(value, Dequantized) or value.reals is not None or value.block:
        return False
    own = value.qparams
    if own.dtype != qparams.dtype or own.dtype in BYTES or own.scale.ndim or qparams.scale.ndim:
        return False
    return bool(own.scale == qparams.scale and own.zero_point == qparams.zero_point)


def _quantize_slices(lowering: Lowering, node: ir.Node, qparams: QParams) -> None:
    """Quantize to 16 bits, or with a scale for each slice along an axis."""
    if qparams.dtype not in WIDE:
        raise UnsupportedError(f"it quantizes activations to {qparams.dtype}")
    held = _floats(lowering, node)
    if qparams.scale.ndim:
        held = Held(lowering.as_plain(held))
    zeros = qparams.zero_point.astype(qparams.dtype).reshape(-1)
    y = lowering.slices(
        "QuantizeWide", dense(lowering, held.tensor),
        lowering.constant(np.ascontiguousarray(qparams.scale.reshape(-1))),
        lowering.constant(zeros) if zeros.any() else None, qparams.axis, qparams.dtype,
    )  # fmt: skip
    lowering.give(node.outputs[0], Held(y, held.channels_last))


def _quantize_at_run_time(lowering: Lowering, node: ir.Node) -> None:
    held = _floats(lowering, node)
    scale, zero, axis = _run_time_parameters(lowering, node)
    given = node.outputs[0].dtype
    dtype = zero.dtype if zero is not None else "uint8" if given is None else dtype_name(given)
    if dtype not in WIDE:
        raise UnsupportedError(f"it quantizes activations to {dtype}")
    x = dense(lowering, lowering.as_plain(held))
    y = lowering.slices("QuantizeWide", x, scale, zero, axis, dtype)
    lowering.give(node.outputs[0], Held(y))


def _run_time_parameters(
    lowering: Lowering, node: ir.Node
) -> tuple[Tensor, Tensor | None, int | None]:
    """Return scale, zero point and axis of a node whose parameters are computed.

    Raises:
        UnsupportedError: they are in blocks, or their types are not those of a Program.
    """
    if attribute(node, "block_size", 0):
        raise UnsupportedError("its activations are quantized in blocks")
    scale = dense(lowering, lowering.plain(node.inputs[1]))
    if scale.dtype != "float32":
        raise UnsupportedError(f"its scale is {scale.dtype}")
    value = node.inputs[2] if len(node.inputs) > 2 else None
    zero = None if value is None else dense(lowering, lowering.plain(value))
    return scale, zero, attribute(node, "axis", 1)
