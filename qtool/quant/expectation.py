"""What channels carry on average, by batch-norm statistics alone: no samples.

A channel behind a BatchNormalization is taken as normal, with the mean and the standard deviation
that it was trained to have. Behind a Relu or a Clip it is that normal clipped; sums, poolings and
concatenations follow, and a layer gives W x + b of its inputs' means.
Nagel et al., arXiv 1906.04721, section 4.2.1.

Shape legend: C channels, of axis 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from qtool import hessian
from qtool.model import Model, array, attribute
from qtool.qparams import Float32, QParams, dequantize, quantize
from qtool.quant.layer_rounding import Rounded
from qtool.quant.qdq_chains import clamp_bounds
from qtool.quant.ties import LAYERS, channels, ties

Float64 = npt.NDArray[np.float64]
TINY = 1e-12


@dataclass(frozen=True)
class Moments:
    """Mean and standard deviation of each channel, (C,)."""

    mean: Float64
    std: Float64


def expected(model: Model) -> dict[ir.Value, Moments]:
    """Return the moments of the tensors that follow from model.batch_norm; tensors have shapes."""
    layers = set(ties(model).layers)
    found: dict[ir.Value, Moments] = {}
    for node in model.graph:
        for value in node.outputs[:1]:
            known = model.batch_norm.get(value.name or "")
            if known is not None and len(known.mean) == channels(value):
                found[value] = Moments(known.mean.astype(np.float64), known.std.astype(np.float64))
                continue
            made = _layer(node, found) if node in layers else _follow(node, found)
            if made is not None and len(made.mean) == channels(value):
                found[value] = made
    return found


def _follow(node: ir.Node, found: Mapping[ir.Value, Moments]) -> Moments | None:
    given = [found.get(v) for v in node.inputs if v is not None and channels(v) is not None]
    known = [one for one in given if one is not None]
    if node.domain != "" or not known or len(known) != len(given):
        return None
    first = known[0]
    if node.op_type in ("Relu", "Clip"):
        low, high = clamp_bounds(node)
        return None if np.isnan(low) or np.isnan(high) else _clipped(first, low, high)
    if node.op_type in ("AveragePool", "GlobalAveragePool", "Identity", "Dropout"):
        return first
    if node.op_type in ("Flatten", "Reshape", "Squeeze"):
        return first
    if node.op_type == "Add" and len(known) == 2:
        return Moments(first.mean + known[1].mean, np.hypot(first.std, known[1].std))
    if node.op_type == "Concat" and attribute(node, "axis", 0) == 1:
        return Moments(
            *(np.concatenate(v) for v in ([k.mean for k in known], [k.std for k in known]))
        )
    return None


def _clipped(one: Moments, low: float, high: float) -> Moments:
    """Return the moments of a normal variable that is clipped."""
    mean, std = one.mean, np.maximum(one.std, TINY)
    a, b = (np.clip((end - mean) / std, -40, 40) for end in (low, high))
    inside = _phi(b) - _phi(a)
    density = _bell(a) - _bell(b)
    below, above = (np.where(np.isfinite(v), v, 0.0) for v in (low, high))
    first = mean * inside + std * density + below * _phi(a) + above * (1 - _phi(b))
    curve = np.where(np.isfinite(low), a * _bell(a), 0) - np.where(
        np.isfinite(high), b * _bell(b), 0
    )
    second = (mean**2 + std**2) * inside + 2 * mean * std * density + std**2 * curve
    second += below**2 * _phi(a) + above**2 * (1 - _phi(b))
    return Moments(first, np.sqrt(np.maximum(second - first**2, 0.0)))


def _phi(x: Float64) -> Float64:
    values = [0.5 * (1 + math.erf(v / math.sqrt(2))) for v in np.ravel(x)]
    return np.array(values).reshape(np.shape(x))


def _bell(x: Float64) -> Float64:
    return np.asarray(np.exp(-0.5 * np.square(x)) / math.sqrt(2 * math.pi))


def _layer(node: ir.Node, found: Mapping[ir.Value, Moments]) -> Moments | None:
    x = node.inputs[0]
    given = found.get(x) if x is not None else None
    if given is None:
        return None
    rows = hessian.rows_of(node).of(np.asarray(array(node.inputs[1]))).astype(np.float64)
    groups, _, depth = rows.shape
    inside = len(given.mean) // groups
    weight = rows.reshape(groups, -1, inside, depth // inside)
    mean = np.einsum("gabk,gb->ga", weight, given.mean.reshape(groups, -1)).ravel()
    square = np.einsum("gabk,gb->ga", weight**2, given.std.reshape(groups, -1) ** 2).ravel()
    bias = array(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] is not None else None
    return Moments(mean + (0 if bias is None else np.ravel(bias)), np.sqrt(square))


@dataclass(frozen=True)
class Expected:
    """Rounds weights to the nearest, and lets biases take the error that is expected of that."""

    means: Mapping[ir.Node, Float64]  # of the inputs of each layer, (G, K)

    def __call__(
        self, weight: Float32, qparams: QParams, users: Sequence[ir.Node], *, corrects: bool
    ) -> Rounded | None:
        """Return the integers of a weight and what the bias has to grow by; None if unknown."""
        known = [self.means[node] for node in users if node in self.means]
        if not corrects or len(known) != len(users):
            return None
        integers = quantize(weight, qparams)
        layout = hessian.rows_of(users[0])
        error = layout.of(weight - dequantize(integers, qparams)).astype(np.float64)
        shift = np.einsum("gck,gk->gc", error, np.mean(known, axis=0)).ravel()
        return Rounded(qparams, integers, shift)


def expected_rounding(model: Model) -> Expected | None:
    """Return what rounds with the means that batch-norm statistics tell; None without any."""
    found = expected(model) if model.batch_norm else {}
    means = {}
    for node in model.graph:
        x = node.inputs[0] if node.op_type in LAYERS and node.inputs else None
        if x is not None and x in found:
            weight = np.asarray(array(node.inputs[1]))
            rows = hessian.rows_of(node).of(weight)
            groups, depth = rows.shape[0], rows.shape[2]
            mean = found[x].mean.reshape(groups, -1)
            means[node] = np.repeat(mean, depth // mean.shape[1], axis=1)
    return Expected(means) if means else None
