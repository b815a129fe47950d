"""Pairs of nodes: one of a float model, and what a quantized form of the model makes of it.

Nodes are paired by name and op, else by the name of a tensor that both compute.

Shape legend: weights have the shape that ONNX gives them; rows() brings them to (groups, M, K).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from qtool.model import Model, array, attribute, constant
from qtool.qparams import Float32, QParams
from qtool.quant.op_rules import CLAMPS, Rule, rule_of, weight_index
from qtool.quant.qdq_constants import read_qparams

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"


@dataclass(frozen=True)
class QuantizedWeight:
    """A weight or bias as the quantized model multiplies with it."""

    real: Float32  # scale * (q - zero_point)
    integers: npt.NDArray[Any]
    scale: Float32
    dtype: str


@dataclass(frozen=True)
class Pair:
    """A node of the float model; names and nodes are the float model's.

    label: what a pattern can call it. inputs: of each quantized activation the index, the tensor
    and its qparams. clamps: the Relu and Clip between the node and the quantized output. output:
    the tensor that is quantized, or just the node's, where output_qparams is None.
    """

    label: str
    node: ir.Node
    inputs: tuple[tuple[int, str, QParams], ...]
    weight_at: int | None
    weight: QuantizedWeight | None
    bias: QuantizedWeight | None
    clamps: tuple[ir.Node, ...]
    output: str
    output_qparams: QParams | None

    @property
    def op(self) -> str:
        """The op, and what clamps it: Conv+Relu."""
        return "+".join([self.node.op_type, *(clamp.op_type for clamp in self.clamps)])


def pairs(quantized: Model, reference: Model) -> tuple[list[Pair], list[str]]:
    """Return the pairs in running order, and the quantized nodes that the reference lacks.

    Paired are nodes of the main graph that read or give quantized tensors, or whose weight is.
    """
    found = _Reference(reference)
    made: list[Pair] = []
    lost: list[str] = []
    for node in quantized.graph:
        rule = rule_of(node)
        if rule is None or rule.kind == "same" or _is_clamp_of_another(node):
            continue
        facts = _facts(node, rule)
        if not facts.is_quantized:
            continue
        twin = found.twin(node)
        if twin is None:
            lost.append(node.name or node.outputs[0].name or node.op_type)
        else:
            made.append(_pair(twin, rule, facts))
    return made, lost


def rows(node: ir.Node, weight: npt.NDArray[Any]) -> npt.NDArray[np.float64] | None:
    """Return a weight as (groups, M, K): M output channels of a group, K as in Gram matrices.

    None for ops that Gram matrices do not cover, such as ConvTranspose.
    """
    values = weight.astype(np.float64)
    if node.op_type == "Conv":
        groups = int(attribute(node, "group", 1))
        return values.reshape(groups, values.shape[0] // groups, -1)
    if node.op_type in ("Gemm", "MatMul") and values.ndim == 2:
        transposed = node.op_type == "Gemm" and attribute(node, "transB", 0)
        return (values if transposed else values.T)[None]
    return None


@dataclass(frozen=True)
class _Facts:
    """What the quantized graph says about one of its nodes."""

    inputs: Mapping[int, QParams]
    weight: QuantizedWeight | None
    bias: QuantizedWeight | None
    output: QParams | None

    @property
    def is_quantized(self) -> bool:
        return bool(self.inputs) or self.weight is not None or self.output is not None


class _Reference:
    """The nodes of the float model by what the quantized one may call them."""

    def __init__(self, model: Model) -> None:
        self._named = {node.name: node for node in model.graph if node.name}
        self._makes = {v.name: node for node in model.graph for v in node.outputs if v.name}

    def twin(self, node: ir.Node) -> ir.Node | None:
        named = self._named.get(node.name) if node.name else None
        if named is not None and named.op_type == node.op_type:
            return named
        for clamp in (node, *clamps_behind(node.outputs[0])):
            maker = self._makes.get(clamp.outputs[0].name or "")
            while maker is not None and maker.op_type != node.op_type:
                before = maker.inputs[0] if maker.op_type in CLAMPS else None
                maker = None if before is None else before.producer()
            if maker is not None:
                return maker
        return None


def clamps_behind(value: ir.Value) -> tuple[ir.Node, ...]:
    """Return the Relu and Clip nodes that follow a value, each the only reader."""
    found: list[ir.Node] = []
    while not value.is_graph_output() and len(value.uses()) == 1:
        user = value.consumers()[0]
        if user.op_type not in CLAMPS or user.inputs[0] is not value:
            break
        found.append(user)
        value = user.outputs[0]
    return tuple(found)


def _is_clamp_of_another(node: ir.Node) -> bool:
    """Return whether a Relu or Clip only follows a node of its own, which stands for both."""
    if node.op_type not in CLAMPS or node.inputs[0] is None:
        return False
    producer, value = node.inputs[0].producer(), node.inputs[0]
    return producer is not None and producer.op_type != DEQUANTIZE and len(value.uses()) == 1


def _pair(node: ir.Node, rule: Rule, facts: _Facts) -> Pair:
    clamps = clamps_behind(node.outputs[0]) if facts.output is not None else ()
    output = clamps[-1].outputs[0] if clamps else node.outputs[0]
    inputs = [
        (index, value.name or "", qparams)
        for index, qparams in facts.inputs.items()
        if (value := node.inputs[index]) is not None
    ]
    return Pair(
        node.name or node.outputs[0].name or node.op_type,
        node,
        tuple(inputs),
        weight_index(node) if facts.weight is not None else None,
        facts.weight,
        facts.bias,
        clamps,
        output.name or "",
        facts.output,
    )


def _facts(node: ir.Node, rule: Rule) -> _Facts:
    at = weight_index(node)
    inputs = {}
    for index, value in enumerate(node.inputs):
        producer = None if value is None else value.producer()
        if index == at or value is None or producer is None or producer.op_type != DEQUANTIZE:
            continue
        qparams = read_qparams(producer)
        if constant(producer.inputs[0]) is None and qparams is not None:
            inputs[index] = qparams
    weight = None if at is None else quantized_weight(node.inputs[at])
    bias = None
    if rule.bias is not None and len(node.inputs) > rule.bias:
        bias = quantized_weight(node.inputs[rule.bias])
    return _Facts(inputs, weight, bias, _output_qparams(node))


def _output_qparams(node: ir.Node) -> QParams | None:
    clamps = clamps_behind(node.outputs[0])
    value = clamps[-1].outputs[0] if clamps else node.outputs[0]
    readers = [user for user in value.consumers() if user.op_type == QUANTIZE]
    return read_qparams(readers[0]) if readers else None


def quantized_weight(value: ir.Value | None) -> QuantizedWeight | None:
    """Return what a DequantizeLinear gives of a constant; None for anything else."""
    producer = None if value is None else value.producer()
    if producer is None or producer.op_type != DEQUANTIZE:
        return None
    integers, scale = array(producer.inputs[0]), array(producer.inputs[1])
    if integers is None or scale is None:
        return None
    zero = array(producer.inputs[2]) if len(producer.inputs) > 2 else None
    zero = np.zeros(scale.shape, np.int32) if zero is None else zero.astype(np.int32)
    axis, block = attribute(producer, "axis", 1), attribute(producer, "block_size", 0)
    steps = integers.astype(np.int64) - _spread(zero, integers.shape, axis, block)
    real = steps.astype(np.float32) * _spread(scale.astype(np.float32), steps.shape, axis, block)
    return QuantizedWeight(real, integers, scale.astype(np.float32), str(integers.dtype))


def _spread(
    values: npt.NDArray[Any], shape: tuple[int, ...], axis: int, block: int
) -> npt.NDArray[Any]:
    """Return scales or zero points so that they broadcast with a tensor of this shape."""
    if values.size == 1:
        return values.reshape(())
    if block:
        whole = np.repeat(values, block, axis=axis)
        return whole[tuple(slice(n) for n in shape)]
    wanted = [1] * len(shape)
    wanted[axis] = -1
    return values.reshape(wanted)


def consumers_through_moves(value: ir.Value) -> Iterator[ir.Node]:
    """Yield the nodes that read a value, seen through those that only move elements."""
    for user in value.consumers():
        rule = rule_of(user)
        if rule is not None and (rule.kind == "same" or user.op_type in CLAMPS):
            for output in user.outputs:
                yield from consumers_through_moves(output)
        else:
            yield user
