"""QuantizeLinear and DequantizeLinear."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from qtool.errors import UnsupportedError
from qtool.qparams import quantize
from qtool.runtime.lower.outputs import qparams_of
from qtool.runtime.lower.state import Lowering, scalar_qparams
from qtool.runtime.lower.values import Dequantized, Held, Known


def dequantize_linear(lowering: Lowering, node: ir.Node) -> None:
    """Remember it: most readers want the integers."""
    qparams = qparams_of(lowering, node)
    if qparams is None:
        raise UnsupportedError("its scale or zero point is computed at run time, or in blocks")
    q = lowering.value(node.inputs[0])
    assert not isinstance(q, Dequantized)
    lowering.give(node.outputs[0], Dequantized(q, qparams))


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
    shifted = qparams.dtype == "int8"
    if isinstance(value, Dequantized) and value.qparams.dtype in ("int8", "uint8"):
        x = lowering.unsigned(value.q)
        table = quantize(lowering.by_byte(value).astype(np.float32), qparams) + 128 * shifted
        if np.array_equal(table, np.arange(256)):
            tensor = x.tensor
        else:
            tensor = lowering.table(x.tensor, table.astype(np.uint8))
        lowering.give(node.outputs[0], Held(tensor, x.channels_last, shifted))
        return
    held = lowering.held(node.inputs[0])
    if held.dtype != "float32":
        raise UnsupportedError(f"it quantizes {held.dtype}")
    scale, zero = scalar_qparams(qparams)
    y = lowering.make("uint8", held.tensor.shape)
    lowering.emit("Quantize", [held.tensor], [y], [zero, 0, 255, 0], [float(scale)])
    lowering.give(node.outputs[0], Held(y, held.channels_last, shifted))
