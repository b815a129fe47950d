"""Scale and bias of a quantized layer, fitted again once its integers are others.

Both are per channel already, so that this costs no byte. Shape legend: as in
qtool.compress.hessian.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from qtool.compress.codebook import gains
from qtool.hessian import output_error
from qtool.model import array
from qtool.stages._weights import Edit, WeightLayer

Float64 = npt.NDArray[np.float64]
INT32_MAX = 2**31 - 1
MOST = 2.0  # a gain beyond, or below its inverse, says more of the samples than of the weights


def refit(edit: Edit, layer: WeightLayer, wanted: Float64, rows: Float64) -> None:
    """Fit scale and bias of an integer layer to the rows `wanted`, now that it has `rows`.

    The scale of a channel gets the factor of least output error, q H w / q H q, where that lowers
    the error by the regular H; the bias takes up the mean of what is left. Only where statistics
    say what the input is, the scale is per channel, and the bias is int32 at the product of the
    scales (or there is none, and then only scales move).
    """
    dequantize = layer.integer
    if dequantize is None or not layer.has_gram or layer.node.op_type not in ("Conv", "Gemm"):
        return
    old = array(dequantize.inputs[1])
    if old is None or old.size != layer.scales.size:
        return
    scales = (old * _guarded(layer, wanted, rows).reshape(old.shape)).astype(old.dtype)
    by = (scales.astype(np.float64) / old).reshape(layer.scales.shape)
    error = wanted - rows * by[..., None]
    edit.replace(dequantize, 1, scales)
    if layer.integer_bias is not None:
        _store_bias(edit, layer, scales, error)


def _guarded(layer: WeightLayer, wanted: Float64, rows: Float64) -> Float64:
    """Return the factor of each channel, (G, C); 1 where it would not lower the error."""
    h = layer.hessian.regular
    by = gains(wanted, rows, layer.hessian)
    before = output_error(wanted, rows, h)
    after = output_error(wanted, rows * by[..., None], h)
    good = (after < before) & (by < MOST) & (by > 1 / MOST)
    return np.where(good, by, 1.0)


def _store_bias(edit: Edit, layer: WeightLayer, scales: npt.NDArray[Any], error: Float64) -> None:
    """Store the bias at its new scale, with the mean of the output error added (eq. 4)."""
    bias, x = layer.integer_bias, layer.input_scale
    assert bias is not None
    integers, old = array(bias.inputs[0]), array(bias.inputs[1])
    assert integers is not None
    assert old is not None
    real = integers * old.astype(np.float64)
    real = real + np.einsum("gck,gk->gc", error, layer.hessian.mean).reshape(real.shape)
    scale = np.broadcast_to(np.asarray(scales * x, np.float32).reshape(-1), real.shape)
    steps = np.clip(np.rint(real / scale.astype(np.float64)), -INT32_MAX, INT32_MAX)
    edit.replace(bias, 0, steps.astype(np.int32))
    edit.replace(bias, 1, np.ascontiguousarray(scale))
