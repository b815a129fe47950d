"""The qparams of every quantized tensor of a graph, in QDQ or QOperator form."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from qtool.model import Json, Model, all_nodes, array, attribute, constant, dtype_name
from qtool.qparams import DTYPES

# Integer operator -> for each quantized tensor, where it is, its scale and its zero point. A
# negative tensor index counts outputs: -1 is the first one.
_LINEAR = ((0, 1, 2), (3, 4, 5), (-1, 6, 7))
TRIPLES: dict[str, tuple[tuple[int, int, int], ...]] = {
    "QLinearConv": _LINEAR,
    "QLinearMatMul": _LINEAR,
    "QLinearAdd": _LINEAR,
    "QLinearMul": _LINEAR,
    "QGemm": ((0, 1, 2), (3, 4, 5), (-1, 7, 8)),
    "QLinearSigmoid": ((0, 1, 2), (-1, 3, 4)),
    "QLinearLeakyRelu": ((0, 1, 2), (-1, 3, 4)),
    "QLinearSoftmax": ((0, 1, 2), (-1, 3, 4)),
    "QLinearAveragePool": ((0, 1, 2), (-1, 3, 4)),
    "QLinearGlobalAveragePool": ((0, 1, 2), (-1, 3, 4)),
    "QLinearConcat": ((-1, 0, 1), *((i, i + 1, i + 2) for i in range(2, 3 * 64, 3))),
    "QuantizeLinear": ((-1, 1, 2),),
    "DequantizeLinear": ((0, 1, 2),),
}


@dataclass(frozen=True)
class Encoding:
    """How one tensor is quantized; scale and zero_point are (smallest, largest) of n_scales."""

    name: str  # of the tensor of integers
    real: str  # of the float tensor that these stand for
    kind: str  # "weight" or "activation"
    dtype: str
    axis: int | None
    block_size: int
    n_scales: int
    scale: tuple[float, float] | None  # None: computed at run time
    zero_point: tuple[int, int] | None

    @property
    def range(self) -> tuple[float, float] | None:
        """The smallest and largest real number of a per-tensor encoding."""
        if self.n_scales != 1 or self.scale is None or self.zero_point is None:
            return None
        if self.dtype not in DTYPES:
            return None
        low, high = ((q - self.zero_point[0]) * self.scale[0] for q in DTYPES[self.dtype])
        return low, high

    def to_json(self) -> dict[str, Json]:
        """Return the encoding as a JSON object."""
        return dict(vars(self))


def encodings(model: Model) -> tuple[Encoding, ...]:
    """Return the encoding of each quantized tensor, in graph order, once."""
    found: dict[str, Encoding] = {}
    for node in all_nodes(model):
        for tensor, scale, zero in _triples(node):
            if tensor.name and tensor.name not in found:
                found[tensor.name] = _encoding(node, tensor, scale, zero)
    return tuple(found.values())


def _triples(node: ir.Node) -> Iterator[tuple[ir.Value, ir.Value, ir.Value | None]]:
    for tensor_at, scale_at, zero_at in TRIPLES.get(node.op_type, ()):
        inputs = node.inputs
        if scale_at >= len(inputs) or (tensor_at < 0 and not node.outputs):
            continue
        tensor = node.outputs[0] if tensor_at < 0 else inputs[tensor_at]
        scale = inputs[scale_at]
        if tensor is not None and scale is not None:
            yield tensor, scale, inputs[zero_at] if zero_at < len(inputs) else None


def _encoding(node: ir.Node, tensor: ir.Value, scale: ir.Value, zero: ir.Value | None) -> Encoding:
    scales = array(scale)
    zeros = np.zeros(1, np.int32) if zero is None else array(zero)
    dtype = tensor.dtype or (None if zero is None else zero.dtype) or ir.DataType.UINT8
    known = scales is not None and scales.size > 0
    return Encoding(
        tensor.name or "",
        _real_name(node, tensor),
        "activation" if constant(tensor) is None else "weight",
        dtype_name(dtype),
        _axis(node) if scales is not None and scales.size > 1 else None,
        attribute(node, "block_size", 0),
        1 if scales is None else int(scales.size),
        (float(scales.min()), float(scales.max())) if scales is not None and known else None,
        None if zeros is None or not zeros.size else (int(zeros.min()), int(zeros.max())),
    )


def _axis(node: ir.Node) -> int:
    """Return the axis of a scale per channel: an attribute, else that of the output channels."""
    if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
        return int(attribute(node, "axis", 1))
    return 0 if node.op_type == "QLinearConv" else 1


def _real_name(node: ir.Node, tensor: ir.Value) -> str:
    """Return the name of the float tensor next to a QuantizeLinear or DequantizeLinear."""
    if node.op_type == "QuantizeLinear" and node.inputs[0] is not None:
        return node.inputs[0].name or ""
    if node.op_type == "DequantizeLinear":
        return node.outputs[0].name or ""
    return tensor.name or ""
