"""Which nodes of a graph compute in integers: read from the graph alone, whoever quantized it.

A node has one of three forms:

- integer: it is an integer operator (QLinearConv, MatMulInteger, ...), or it stands between
  DequantizeLinear and QuantizeLinear so that integers give its result;
- weights: it computes in float, with weights that are stored as integers;
- float: everything else.

The rules are those of onnxruntime's QDQ selectors (optimizer/qdq_transformer), without the limits
of one machine's kernels; docs/inspect.md states them.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from qtool.model import attribute, constant, dtype_name
from qtool.qparams import DTYPES
from qtool.quant.channels import WEIGHTS as FLOAT_OP_WEIGHTS
from qtool.quant.channels import channel_axis
from qtool.quant.op_rules import CLAMPS, FLOAT_OUTPUT_OPS, Rule, rule_of
from qtool.quant.qdq_chains import (
    dequantizer,
    is_redundant,
    operand,
    quantized_type,
    quantizers,
    same_qparams,
    stored_weight,
)

INTEGER, WEIGHTS, FLOAT = "integer", "weights", "float"

# Operator -> the inputs that are its weights, where they are constant.
WEIGHT_INPUTS: dict[str, tuple[int, ...]] = {
    **FLOAT_OP_WEIGHTS,
    "DeformConv": (1,),
    "Einsum": (1, 0),
    "FusedConv": (1,),
    "FusedGemm": (1, 0),
    "FusedMatMul": (1, 0),
    "ConvInteger": (1,),
    "MatMulInteger": (1, 0),
    "QLinearConv": (3,),
    "QLinearMatMul": (3, 0),
    "QGemm": (3, 0),
    "MatMulIntegerToFloat": (1, 0),
    "DynamicQuantizeMatMul": (1,),
    "DynamicQuantizeLSTM": (1, 2),
    "MatMulNBits": (1,),
    "GatherBlockQuantized": (0,),
}
INTEGER_OPS = {
    "ConvInteger",
    "MatMulInteger",
    "QGemm",
    "MatMulIntegerToFloat",
    "DynamicQuantizeMatMul",
    "DynamicQuantizeLSTM",
}
WEIGHT_ONLY_OPS = {"MatMulNBits", "GatherBlockQuantized"}
QUANTIZED_TYPES = {t for name, t in ir.DataType.__members__.items() if name.lower() in DTYPES}


@dataclass(frozen=True)
class Form:
    """How a node computes, and why not in integers where it does not."""

    name: str  # INTEGER, WEIGHTS or FLOAT
    reason: str = ""


def form_of(node: ir.Node) -> Form:
    """Return the form of a node whose tensors have known types."""
    if node.op_type.startswith("QLinear") or node.op_type in INTEGER_OPS:
        return Form(INTEGER)
    if node.op_type in WEIGHT_ONLY_OPS:
        return Form(WEIGHTS, "its weight is dequantized before it computes")
    if node.outputs[0].dtype in QUANTIZED_TYPES:
        return Form(INTEGER)  # moves integers, such as MaxPool or Reshape of a QOperator graph
    rule = rule_of(node)
    if rule is not None and not _is_whole(node, rule):
        return Form(FLOAT, "it lacks an input")
    reason = f"{node.op_type} has no integer form" if rule is None else obstacle(node, rule)
    if not reason:
        return Form(INTEGER)
    stored = [is_quantized(value) for value in weights_of(node)]
    if rule is not None and not any(v is not None and is_quantized(v) for v in node.inputs):
        reason = rule.check(node) or reason  # why quantization has not touched it
    return Form(WEIGHTS if stored and all(stored) else FLOAT, reason)


def _is_whole(node: ir.Node, rule: Rule) -> bool:
    needed = {0, *(rule.data or ()), *({0, 1} if rule.kind == "weighted" else ())}
    return all(operand(node, index) is not None for index in needed)


def weights_of(node: ir.Node) -> list[ir.Value]:
    """Return the inputs of a node that are constant weights, in float or integers."""
    inputs = [node.inputs[i] for i in WEIGHT_INPUTS.get(node.op_type, ()) if i < len(node.inputs)]
    return [v for v in inputs if v is not None and stored_weight(v) is not None]


def is_quantized(value: ir.Value) -> bool:
    """Return whether a value is integers, or a float that integers stand for."""
    return value.dtype in QUANTIZED_TYPES or dequantizer(value) is not None


def obstacle(node: ir.Node, rule: Rule) -> str:
    """Return why a node does not compute in integers, or nothing when it does."""
    if rule.kind == "same":
        return _moving_obstacle(node, rule)
    if node.op_type in CLAMPS and is_redundant(node) and _follows_integers(node):
        return ""
    data = rule.data_inputs(node)
    floats = [value for value in data if not is_quantized(value)]
    if floats and not _finishes_accumulators(node):
        return _float_input(floats[0])
    mixed = _weight_obstacle(node) if rule.kind == "weighted" else _mixed_types(data)
    return mixed or _output_obstacle(node)


def _moving_obstacle(node: ir.Node, rule: Rule) -> str:
    """A node that only moves elements moves integers, when they come in or go out as such."""
    data = rule.data_inputs(node)
    after = quantizers(node.outputs[0])
    if rule.data is None:  # Concat
        floats = [value for value in data if not is_quantized(value)]
        reason = _float_input(floats[0]) if floats else _mixed_types(data)
        lost = after is None and node.outputs[0].dtype not in QUANTIZED_TYPES
        return reason or (f"its output {node.outputs[0].name!r} is not quantized" if lost else "")
    before = dequantizer(data[0]) if data else None
    if before is None:
        if after is None or stored_weight(data[0]) is not None:
            return _float_input(data[0]) if data else "it has no input"
        return ""  # its QuantizeLinear could as well come first
    if after is not None and not all(same_qparams(before, q) for q in after):
        return "its input and output have different qparams"
    if after is None and weights_of(node):
        return f"its output {node.outputs[0].name!r} is not quantized"
    return ""


def _mixed_types(data: list[ir.Value]) -> str:
    types = [known for value in data if (known := stored_type(value))]
    others = [other for other in types if other != types[0]]
    return f"its inputs are {types[0]} and {others[0]}" if others else ""


def _float_input(value: ir.Value) -> str:
    if stored_weight(value) is not None:
        return f"its constant {value.name!r} is in float"
    return f"its input {value.name!r} is not quantized"


def _weight_obstacle(node: ir.Node) -> str:
    for index in (0, 1):
        value = node.inputs[index]
        before = None if value is None else dequantizer(value)
        if value is None or before is None:
            return _float_input(value) if value is not None else "it lacks an input"
        if not _scale_leaves_sum(node, index, before):
            return f"the scales of {value.name!r} change along the depth that is summed over"
    bias = operand(node, 2)
    if bias is not None and stored_weight(bias) is None:
        return f"its bias {bias.name!r} is computed at run time"
    x, w = stored_type(node.inputs[0]), stored_type(node.inputs[1])
    if x == "int8" and w == "uint8":
        return "no integer kernel multiplies an int8 input with a uint8 weight"
    return ""


def _scale_leaves_sum(node: ir.Node, index: int, before: ir.Node) -> bool:
    """Return whether an operand has one scale for all that one output element sums over."""
    if attribute(before, "block_size", 0):
        return False
    scale, source, value = operand(before, 1), operand(before, 0), operand(node, index)
    size = _static(scale)
    shape = _static(source)
    if not size or size == (1,) or not shape or value is None or value.producer() is not before:
        return True
    axis: int = attribute(before, "axis", 1) % len(shape)
    return channel_axis(node, index, shape) == axis


def _static(value: ir.Value | None) -> tuple[int, ...] | None:
    shape = None if value is None else value.shape
    return shape.numpy() if shape is not None and shape.is_static() else None


def _output_obstacle(node: ir.Node) -> str:
    output = node.outputs[0]
    after = quantizers(output)
    if after is not None:
        x, y = stored_type(_activation(node)), quantized_type(after[0])
        return f"its input is {x} and its output {y}" if x and y and x != y else ""
    read_as_integers = any(user.op_type == "QuantizeLinear" for user in output.consumers())
    if not read_as_integers and (node.op_type in FLOAT_OUTPUT_OPS or _adds_bias(node)):
        return ""  # int32 accumulators times the scales are the float result
    if output.is_graph_output():
        return f"its output {output.name!r} is a float output of the model"
    for user in output.consumers():
        if user.op_type in CLAMPS and quantizers(user.outputs[0]) is not None:
            return f"the range of {user.outputs[0].name!r} does not replace its {user.op_type}"
    return f"its output {output.name!r} is not quantized"


def _activation(node: ir.Node) -> ir.Value | None:
    """Return the first quantized input of a node that is not a constant."""
    known = [v for v in node.inputs if v is not None and stored_weight(v) is None]
    return next((v for v in known if dequantizer(v) is not None), None)


def stored_type(value: ir.Value | None) -> str:
    """Return the type of the integers behind a value, "" where there are none."""
    before = None if value is None else dequantizer(value)
    source = None if before is None else operand(before, 0)
    return "" if source is None or source.dtype is None else dtype_name(source.dtype)


def _follows_integers(clamp: ir.Node) -> bool:
    """Return whether what a clamp reads is computed in integers."""
    source = operand(clamp, 0)
    producer = None if source is None else source.producer()
    if source is None or is_quantized(source) or producer is None or producer.op_type in CLAMPS:
        return source is not None and is_quantized(source)
    rule = rule_of(producer)
    return rule is not None and _is_whole(producer, rule) and not obstacle(producer, rule)


def _finishes_accumulators(node: ir.Node) -> bool:
    """Return whether a node is the bias or the clamp of an integer MatMul or Gemm."""
    if node.op_type == "Add":
        return _adds_bias(node)
    source = operand(node, 0)
    producer = None if source is None else source.producer()
    if producer is None or node.op_type not in CLAMPS:
        return False
    return _gives_accumulators(producer) or _adds_bias(producer)


def _adds_bias(node: ir.Node) -> bool:
    """Return whether a node adds a constant to the accumulators of an integer MatMul or Gemm."""
    if node.op_type != "Add" or len(node.inputs) != 2:
        return False
    constants = [v for v in node.inputs if v is not None and constant(v) is not None]
    others = [v for v in node.inputs if v is not None and v not in constants]
    producer = others[0].producer() if len(constants) == len(others) == 1 else None
    return producer is not None and _gives_accumulators(producer)


def _gives_accumulators(node: ir.Node) -> bool:
    rule = rule_of(node)
    if rule is None or node.op_type not in FLOAT_OUTPUT_OPS or not _is_whole(node, rule):
        return False
    return quantizers(node.outputs[0]) is None and not obstacle(node, rule)
