"""The bias of integer products."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from qtool.runtime.lower.state import Lowering
from qtool.runtime.lower.values import Dequantized, Float32, Known

Int32 = npt.NDArray[np.int32]
INT32_MAX = 2**31 - 1


def read_bias(
    lowering: Lowering, node: ir.Node, x_scale: np.float32, w_scale: Float32, n: int
) -> Int32:
    """Return the int32 bias of n output channels, quantized by eq. 4 where it is not yet."""
    if len(node.inputs) < 3 or node.inputs[2] is None:
        return np.zeros(n, np.int32)
    scale = (w_scale * x_scale).astype(np.float32)
    found = lowering.value(node.inputs[2])
    if isinstance(found, Dequantized) and isinstance(found.q, Known):
        q, qparams = found.q.array, found.qparams
        own = np.broadcast_to(qparams.scale.reshape(-1), n)
        same = np.array_equal(own, np.broadcast_to(scale.reshape(-1), n))
        if same and q.dtype == np.int32 and not qparams.zero_point.any():
            return np.ascontiguousarray(np.broadcast_to(q.reshape(-1), n))
    bias = lowering.need(node.inputs[2], "bias").astype(np.float64).reshape(-1)
    steps = np.rint(np.broadcast_to(bias, n) / scale.astype(np.float64))
    return np.clip(steps, -INT32_MAX, INT32_MAX).astype(np.int32)
