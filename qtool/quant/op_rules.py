"""Which ops have an integer form, and how each one's inputs and output are quantized.

An op is one of three kinds:

- weighted: multiplies activations with constant weights (or with other activations, MatMul);
  int32 accumulators, output with qparams of its own.
- own: elementwise or a reduction; its output has qparams of its own.
- same: only moves or selects elements, so that input and output share their qparams.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from qtool.model import array, attribute, constant

Check = Callable[[ir.Node], str | None]  # why this node has no integer form; None if it has


def _always(node: ir.Node) -> str | None:
    return None


@dataclass(frozen=True)
class Rule:
    """How to quantize one op: kind, and the indices of its inputs by their role.

    data None means all inputs. check returns the reason why a particular node has no integer form.
    """

    kind: str  # "weighted", "own" or "same"
    data: tuple[int, ...] | None = (0,)
    weight: int | None = None
    bias: int | None = None
    check: Check = _always

    def data_inputs(self, node: ir.Node) -> list[ir.Value]:
        """Return the inputs that carry activations or constant operands, not weights."""
        indices = range(len(node.inputs)) if self.data is None else self.data
        return [v for i in indices if i < len(node.inputs) and (v := node.inputs[i]) is not None]


def _constant_weight(node: ir.Node) -> str | None:
    if len(node.inputs) < 2 or node.inputs[1] is None or constant_weight(node.inputs[1]) is None:
        return "its weight is computed at run time"
    if len(node.inputs) > 2 and node.inputs[2] is not None and constant(node.inputs[2]) is None:
        return "its bias is computed at run time"
    return None


def constant_weight(value: ir.Value) -> ir.TensorProtocol | None:
    """Return the tensor of a weight, also when it is already behind a DequantizeLinear."""
    producer = value.producer()
    if producer is not None and producer.op_type == "DequantizeLinear":
        return constant(producer.inputs[0])
    return constant(value)


def _gemm(node: ir.Node) -> str | None:
    if attribute(node, "alpha", 1.0) != 1.0 or attribute(node, "beta", 1.0) != 1.0:
        return "alpha or beta is not 1; freeze folds them into the weight"
    if attribute(node, "transA", 0):
        return "its first input is transposed (transA)"
    return _constant_weight(node)


def _divisor(node: ir.Node) -> str | None:
    divisor = array(node.inputs[1])
    if divisor is None:
        return "its divisor is computed at run time and could round to zero"
    if divisor.size and np.abs(divisor).min() < np.abs(divisor).max() / 100:
        return "the smallest of its divisors would round to zero"
    return None


def _zero_pad(node: ir.Node) -> str | None:
    if attribute(node, "mode", "constant") != "constant":
        return None
    value = array(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] is not None else None
    if len(node.inputs) > 2 and node.inputs[2] is not None and value is None:
        return "its padding value is computed at run time"
    return None if value is None or not value.any() else "it pads with a value other than 0"


def _interpolation(node: ir.Node) -> str | None:
    if attribute(node, "mode", "nearest") == "cubic":
        return "cubic interpolation leaves the range of its input"
    if attribute(node, "extrapolation_value", 0.0) != 0.0:
        return "it extrapolates with a value other than 0"
    return None


RULES: dict[str, Rule] = {
    "Conv": Rule("weighted", weight=1, bias=2, check=_constant_weight),
    "ConvTranspose": Rule("weighted", weight=1, bias=2, check=_constant_weight),
    "Gemm": Rule("weighted", weight=1, bias=2, check=_gemm),
    "MatMul": Rule("weighted", data=(0, 1)),  # a constant second input is its weight
    "Add": Rule("own", (0, 1)),
    "Sub": Rule("own", (0, 1)),
    "Mul": Rule("own", (0, 1)),
    "Div": Rule("own", (0, 1), check=_divisor),
    "Relu": Rule("own"),
    "Clip": Rule("own"),
    "LeakyRelu": Rule("own"),
    "PRelu": Rule("own"),  # the slope stays float
    "HardSwish": Rule("own"),
    "HardSigmoid": Rule("own"),
    "Sigmoid": Rule("own"),
    "Tanh": Rule("own"),
    "Gelu": Rule("own"),
    "Softmax": Rule("own"),
    "AveragePool": Rule("own"),
    "GlobalAveragePool": Rule("own"),
    "ReduceMean": Rule("own"),
    "LayerNormalization": Rule("own"),
    "MaxPool": Rule("same"),
    "GlobalMaxPool": Rule("same"),
    "ReduceMax": Rule("same"),
    "ReduceMin": Rule("same"),
    "Concat": Rule("same", data=None),
    "Split": Rule("same"),
    "Slice": Rule("same"),
    "Pad": Rule("same", check=_zero_pad),
    "Resize": Rule("same", check=_interpolation),
    "Transpose": Rule("same"),
    "Reshape": Rule("same"),
    "Flatten": Rule("same"),
    "Squeeze": Rule("same"),
    "Unsqueeze": Rule("same"),
    "Expand": Rule("same"),
    "Tile": Rule("same"),
    "Identity": Rule("same"),
    "DepthToSpace": Rule("same"),
    "SpaceToDepth": Rule("same"),
    "Gather": Rule("same"),
}

#: Ops whose integer form may give float32 directly from the accumulator (no output qparams).
FLOAT_OUTPUT_OPS = ("Gemm", "MatMul")

#: Ops that only clamp: folded into the range of what produces their input.
CLAMPS = ("Relu", "Clip")


def rule_of(node: ir.Node) -> Rule | None:
    """Return the rule of a node's op, or None where the op has no integer form."""
    return RULES.get(node.op_type) if node.domain in ("", "ai.onnx") else None


def weight_index(node: ir.Node) -> int | None:
    """Return which input of a weighted node is its constant weight; None if there is none."""
    rule = rule_of(node)
    if rule is None or rule.kind != "weighted":
        return None
    if node.op_type == "MatMul":
        second = node.inputs[1]
        return 1 if second is not None and constant_weight(second) is not None else None
    return rule.weight
