"""QuantizeLinear and DequantizeLinear."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from qtool.errors import UnsupportedError
from qtool.model import attribute
from qtool.qparams import quantize
from qtool.runtime.lower.outputs import qparams_of
from qtool.runtime.lower.state import Lowering, scalar_qparams
from qtool.runtime.lower.values import Dequantized, Held, Known, is_byte


def dequantize_linear(lowering: Lowering, node: ir.Node) -> None:
    """Remember it: most readers want the integers."""
    q = lowering.value(node.inputs[0])
    assert not isinstance(q, Dequantized)
    block = attribute(node, "block_size", 0) if isinstance(q, Known) else 0
    qparams = qparams_of(lowering, node, blocks=block > 0)
    if qparams is None:
        raise UnsupportedError("its scale or zero point is computed at run time, or in blocks")
    lowering.give(node.outputs[0], Dequantized(q, qparams, block=block))


def quantize_linear(lowering: Lowering, node: ir.Node) -> None:
    """Quantize floats, or make other integers of integers by a table; none when they agree."""
    qparams = qparams_of(lowering, node)
    if qparams is None:
        raise UnsupportedError("its scale or zero point is computed at run time, or in blocks")
    known = lowering.known(node.inputs[0])
    if known is not None:
        integers = quantize(known.astype(np.float32), qparams).astype(qparams.dtype)
        lowering.give(node.outputs[0], Known(integers))
        return
    if qparams.dtype not in ("int8", "uint8") or qparams.scale.ndim:
        raise UnsupportedError(f"it quantizes activations per channel or to {qparams.dtype}")
    value = lowering.value(node.inputs[0])
    if is_byte(value):
        lowering.give(node.outputs[0], lowering.requantized(value, qparams))
        return
    held = lowering.held(node.inputs[0])
    if held.dtype != "float32":
        raise UnsupportedError(f"it quantizes {held.dtype}")
    scale, zero = scalar_qparams(qparams)
    y = lowering.make("uint8", held.tensor.shape)
    lowering.emit("Quantize", [held.tensor], [y], [zero, 0, 255, 0], [float(scale)])
    lowering.give(node.outputs[0], Held(y, held.channels_last, qparams.dtype == "int8"))
