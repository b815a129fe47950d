"""The QOperator form of each op: one node that reads and gives integers.

A form is what stands in for DequantizeLinear -> op -> QuantizeLinear. The ONNX domain has
QLinearConv and QLinearMatMul; the others are onnxruntime's own (domain com.microsoft).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from qtool.model import array, attribute

MICROSOFT = "com.microsoft"
EIGHT_BITS = (ir.DataType.INT8, ir.DataType.UINT8)


class NoFormError(Exception):
    """A node stays as it is; the text says why."""


@dataclass(frozen=True)
class Quantized:
    """Integers with their qparams, read from a DequantizeLinear or given by a QuantizeLinear."""

    integers: ir.Value
    scale: ir.Value
    zero_point: ir.Value
    node: ir.Node

    @property
    def dtype(self) -> ir.DataType | None:
        """The type of the integers."""
        return self.zero_point.dtype

    @property
    def is_per_tensor(self) -> bool:
        """Whether one scale holds for all elements."""
        scale = array(self.scale)
        return scale is not None and scale.size == 1

    @property
    def params(self) -> list[ir.Value]:
        """Integers, scale and zero point, as most forms take their inputs."""
        return [self.integers, self.scale, self.zero_point]


@dataclass(frozen=True)
class Site:
    """A node between its DequantizeLinear nodes and the QuantizeLinear of its output.

    inputs[i] is None where input i is missing or not dequantized. output is None where the
    output is read in float.
    """

    node: ir.Node
    inputs: list[Quantized | None]
    output: Quantized | None
    opset: int

    def data(self, index: int = 0) -> Quantized:
        """Return an input that must be 8-bit integers with one scale."""
        found = self.inputs[index] if index < len(self.inputs) else None
        if found is None:
            raise NoFormError(f"its input {index} is not quantized")
        if not found.is_per_tensor:
            raise NoFormError(f"its input {index} has a scale per channel")
        if found.dtype not in EIGHT_BITS:
            raise NoFormError(f"its input {index} does not have 8 bits")
        return found

    def weight(self, index: int, axis: int) -> Quantized:
        """Return an input that may have one scale per slice along axis."""
        found = self.inputs[index] if index < len(self.inputs) else None
        if found is None:
            raise NoFormError("its weight is not quantized")
        rank = len(found.integers.shape or ())
        if not found.is_per_tensor and attribute(found.node, "axis", 1) % rank != axis % rank:
            raise NoFormError("its weight has a scale per slice of another axis")
        if attribute(found.node, "block_size", 0):
            raise NoFormError("its weight is quantized in blocks")
        signed = self.data().dtype == ir.DataType.INT8
        if found.dtype not in (EIGHT_BITS[:1] if signed else EIGHT_BITS):
            raise NoFormError(
                f"its weight is {_word(found.dtype)}, its input {_word(self.data().dtype)}"
            )
        return found

    def bias(self, index: int, x: Quantized, w: Quantized) -> ir.Value | None:
        """Return the int32 bias at scale x_scale * w_scale, or None where there is none."""
        value = self.node.inputs[index] if index < len(self.node.inputs) else None
        if value is None:
            return None
        found = self.inputs[index]
        scales = [array(v) for v in (x.scale, w.scale, found.scale if found else None)]
        if found is None or found.integers.dtype != ir.DataType.INT32:
            raise NoFormError("its bias is not quantized to int32")
        if any(scale is None for scale in scales):
            raise NoFormError("its scales are computed at run time")
        x_scale, w_scale, b_scale = (np.asarray(s, np.float64).reshape(-1) for s in scales)
        if not np.allclose(x_scale * w_scale, b_scale, rtol=1e-5, atol=0):
            raise NoFormError("the scale of its bias is not x_scale * w_scale")
        return found.integers

    @property
    def result(self) -> Quantized:
        """The qparams of the output, which must be quantized."""
        if self.output is None:
            raise NoFormError("its output is read in float")
        _check_alike(self.data(), self.output)
        return self.output


@dataclass(frozen=True)
class Form:
    """The node that stands in for a site."""

    op_type: str
    inputs: Sequence[ir.Value | None]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    domain: str = MICROSOFT
    gives_float: bool = False


def conv(site: Site) -> Form:
    """Return QLinearConv."""
    x, w, y = site.data(), site.weight(1, 0), site.result
    inputs = [*x.params, *w.params, y.scale, y.zero_point]
    bias = site.bias(2, x, w)
    return Form("QLinearConv", inputs if bias is None else [*inputs, bias], _copied(site), "")


def matmul(site: Site) -> Form:
    """Return QLinearMatMul, or MatMulIntegerToFloat where the output is read in float."""
    a, b = site.data(), site.weight(1, -1)
    if not b.is_per_tensor and len(b.integers.shape or ()) != 2:
        raise NoFormError("its weight has a scale per slice and more than two axes")
    if site.output is not None:
        y = site.output
        return Form("QLinearMatMul", [*a.params, *b.params, y.scale, y.zero_point], {}, "")
    inputs = [a.integers, b.integers, a.scale, b.scale, a.zero_point, b.zero_point]
    return Form("MatMulIntegerToFloat", inputs, gives_float=True)


def gemm(site: Site) -> Form:
    """Return QGemm, whose output is float where it has no qparams."""
    if attribute(site.node, "beta", 1.0) != 1.0:
        raise NoFormError("its beta is not 1")
    if attribute(site.node, "alpha", 1.0) != 1.0 and len(site.node.inputs) > 2:
        raise NoFormError("its alpha is not 1 and it has a bias")
    trans_b = attribute(site.node, "transB", 0)
    a, b = site.data(), site.weight(1, 0 if trans_b else 1)
    inputs: list[ir.Value | None] = [*a.params, *b.params, site.bias(2, a, b)]
    if site.output is not None:
        inputs += [site.output.scale, site.output.zero_point]
    attributes = {k: v for k, v in _copied(site).items() if k != "beta"}
    return Form("QGemm", inputs, attributes, gives_float=site.output is None)


def binary(site: Site) -> Form:
    """Return QLinearAdd or QLinearMul."""
    a, b, y = site.data(0), site.data(1), site.result
    _check_alike(a, b)
    inputs = [*a.params, *b.params, y.scale, y.zero_point]
    return Form(f"QLinear{site.node.op_type}", inputs)


def unary(site: Site) -> Form:
    """Return the form that takes x and the qparams of y, under the op's own name."""
    x, y = site.data(), site.result
    name = f"QLinear{site.node.op_type}"
    return Form(name, [*x.params, y.scale, y.zero_point], _copied(site))


def average_pool(site: Site) -> Form:
    """Return QLinearAveragePool, which has no dilations."""
    if any(d != 1 for d in attribute(site.node, "dilations", ())):
        raise NoFormError("it has dilations")
    form = unary(site)
    attributes = {k: v for k, v in form.attributes.items() if k != "dilations"}
    return Form(form.op_type, form.inputs, attributes)


def relu(site: Site) -> Form:
    """Return QLinearLeakyRelu with slope 0."""
    x, y = site.data(), site.result
    return Form("QLinearLeakyRelu", [*x.params, y.scale, y.zero_point], {"alpha": 0.0})


def softmax(site: Site) -> Form:
    """Return QLinearSoftmax, which is told the opset that its axis is meant in."""
    form = unary(site)
    axis = attribute(site.node, "axis", -1 if site.opset >= 13 else 1)
    return Form(form.op_type, form.inputs, {"axis": axis, "opset": site.opset})


def concat(site: Site) -> Form:
    """Return QLinearConcat."""
    y, parts = site.result, [site.data(i) for i in range(len(site.node.inputs))]
    _check_alike(y, *parts)
    inputs = [v for part in parts for v in part.params]
    return Form("QLinearConcat", [y.scale, y.zero_point, *inputs], _copied(site))


def _check_alike(*tensors: Quantized) -> None:
    """Fail where integers have different types, which no form takes."""
    words = sorted({_word(q.dtype) for q in tensors})
    if len(words) > 1:
        raise NoFormError(f"it mixes {' and '.join(words)}")


def _word(dtype: ir.DataType | None) -> str:
    return "of unknown type" if dtype is None else dtype.name.lower()


def _copied(site: Site) -> dict[str, Any]:
    return {name: attr.value for name, attr in site.node.attributes.items()}


FORMS: dict[str, Callable[[Site], Form]] = {
    "Conv": conv,
    "MatMul": matmul,
    "Gemm": gemm,
    "Add": binary,
    "Mul": binary,
    "Sigmoid": unary,
    "LeakyRelu": unary,
    "GlobalAveragePool": unary,
    "AveragePool": average_pool,
    "Relu": relu,
    "Softmax": softmax,
    "Concat": concat,
}
