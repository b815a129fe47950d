"""Sums of two products that leave int16: where AVX2 without VNNI saturates and others do not.

`vpmaddubsw` multiplies unsigned 8-bit activations a with signed 8-bit weights w and adds
neighbours in int16:

    |a[2i] w[2i] + a[2i + 1] w[2i + 1]| <= 32767  or the sum saturates

onnxruntime's AVX2 kernels do that for int8 weights; int8 activations get 128 added before. A
channel is a hazard if two neighbours of its weights can pass that with activations that occur.
Depthwise kernels widen first. qtool's own runtime never saturates.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from qtool.model import Json, Model, TensorStatistics, attribute
from qtool.qparams import QParams, quantize
from qtool.quant.op_rules import rule_of, weight_index
from qtool.quant.pairs import QuantizedWeight, quantized_weight
from qtool.quant.qdq_chains import dequantizer
from qtool.quant.qdq_constants import read_qparams
from qtool.quant.selection import node_label

INT16_MAX = 32767
TARGETS = ("avx2",)
SHIFTS = {"uint8": 0, "int8": 128}  # what makes activations unsigned


@dataclass(frozen=True)
class Hazard:
    """One layer. worst: the largest pair sum that can occur; largest_activation: as an integer.

    channels: the output channels that can saturate, of n_channels.
    """

    name: str
    channels: tuple[int, ...]
    n_channels: int
    worst: int
    largest_activation: int
    calibrated: bool

    def to_json(self) -> dict[str, Json]:
        """Return the hazard as a JSON object."""
        return {**vars(self), "channels": list(self.channels)}


def hazards(model: Model) -> list[Hazard]:
    """Return each layer of 8-bit activations and int8 weights, with its hazard channels.

    The largest activation is the calibrated one where the model has statistics, else the type's.
    """
    return list(_layers(model))


def hazard_channels(weight: npt.NDArray[Any], node: ir.Node, largest: int) -> tuple[list[int], int]:
    """Return the output channels of an int8 weight that can saturate, and the largest pair sum.

    Both orders of the depth are looked at, as kernels of both are in use: channels first as ONNX
    has them, and channels last.
    """
    worst = np.zeros(1)
    for rows in _orders(weight, node):
        n = rows.shape[1] + rows.shape[1] % 2
        padded = np.zeros((len(rows), n), np.int64)
        padded[:, : rows.shape[1]] = rows
        first, second = padded[:, ::2], padded[:, 1::2]
        high = np.maximum(first, 0) + np.maximum(second, 0)
        low = np.minimum(first, 0) + np.minimum(second, 0)
        found = largest * np.maximum(high, -low).max(axis=1, initial=0)
        worst = np.maximum(worst, found)
    return [int(i) for i in np.flatnonzero(worst > INT16_MAX)], int(worst.max())


def _layers(model: Model) -> Iterator[Hazard]:
    known = {} if model.statistics is None else dict(model.statistics.tensors)
    for node in model.graph:
        at = weight_index(node)
        if at is None:
            continue
        weight, x = quantized_weight(node.inputs[at]), _activation(node, at)
        if weight is None or x is None or weight.dtype != "int8" or x[0].dtype not in SHIFTS:
            continue
        if _is_depthwise(node, weight.integers):
            continue
        largest, calibrated = _largest(x[0], known.get(x[1]))
        channels, worst = hazard_channels(weight.integers, node, largest)
        yield Hazard(
            node_label(node), tuple(channels), _n_channels(node, weight), worst, largest, calibrated
        )


def _activation(node: ir.Node, at: int) -> tuple[QParams, str] | None:
    """Return the qparams of what a layer reads, and the name of the float tensor."""
    rule = rule_of(node)
    values = [] if rule is None else [v for v in rule.data_inputs(node) if v is not node.inputs[at]]
    found = dequantizer(values[0]) if values else None
    qparams = read_qparams(found)
    if found is None or qparams is None or found.inputs[0] is None:
        return None
    maker = found.inputs[0].producer()
    source = maker.inputs[0] if maker is not None and maker.op_type == "QuantizeLinear" else None
    return qparams, "" if source is None else source.name or ""


def _largest(qparams: QParams, known: TensorStatistics | None) -> tuple[int, bool]:
    shift = SHIFTS[qparams.dtype]
    if known is None:
        return qparams.limits[1] + shift, False
    return int(quantize(known.maximum, qparams)) + shift, True


def _orders(weight: npt.NDArray[Any], node: ir.Node) -> Iterator[npt.NDArray[Any]]:
    """Yield the weight as (channels, depth) in each order that kernels have."""
    if node.op_type in ("Conv", "ConvTranspose"):
        first = weight if node.op_type == "Conv" else np.moveaxis(weight, 1, 0)
        yield first.reshape(len(first), -1)
        yield np.moveaxis(first, 1, -1).reshape(len(first), -1)
        return
    transposed = node.op_type == "Gemm" and attribute(node, "transB", 0)
    last = weight if transposed else np.moveaxis(weight, -1, 0)
    yield last.reshape(len(last), -1)


def _is_depthwise(node: ir.Node, weight: npt.NDArray[Any]) -> bool:
    return node.op_type == "Conv" and attribute(node, "group", 1) > 1 and weight.shape[1] == 1


def _n_channels(node: ir.Node, weight: QuantizedWeight) -> int:
    return len(next(_orders(weight.integers, node)))
