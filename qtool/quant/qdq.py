"""Static quantization: QuantizeLinear/DequantizeLinear pairs around the nodes of a plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from qtool.model import array, constant
from qtool.qparams import QParams, from_range, quantize
from qtool.quant.layer_rounding import WeightRounder
from qtool.quant.op_rules import rule_of
from qtool.quant.plan import Group, Plan
from qtool.quant.qdq_chains import clamp_bounds
from qtool.quant.qdq_constants import Constants, read_qparams
from qtool.quant.qdq_layers import ChooseWeight, quantize_weight, weights_of


@dataclass(frozen=True)
class Scheme:
    """How activations and constant operands are quantized, and how a weight's qparams are chosen.

    choose_weight gets a weight, its channel axis (None: per tensor) and the nodes that read it.
    """

    activation_dtype: str
    activation_symmetric: bool
    choose_weight: ChooseWeight
    rounder: WeightRounder | None = None  # None: to the nearest
    target: str | None = None  # avx2: no sum of two products saturates there


def insert(graph: ir.Graph, made: Plan, qparams: Sequence[QParams], scheme: Scheme) -> list[str]:
    """Edit the graph: quantize what the plan says; qparams[i] is of made.groups[i].

    Returns what a user should know, such as channels whose scale was widened.
    """
    inserter = _Inserter(graph, made, qparams, scheme)
    weights = weights_of(made.nodes)
    removed = inserter.fold_clamps()
    for value in list(inserter.of):
        if value not in removed and not _has_pair(value):
            inserter.pair(value)
    for node in inserter.operands:
        inserter.quantize_constants(node)
    notes = []
    for key, users in weights.items():
        choose, reads = scheme.choose_weight, inserter.input_qparams
        notes += quantize_weight(
            key, users, inserter.constants, choose, reads, scheme.rounder, made.biased,
            scheme.target,
        )  # fmt: skip
    inserter.constants.finish()
    return notes


def fixed_qparams(group: Group) -> QParams | None:
    """Return the qparams that a group already has in the graph, from training or another tool."""
    for value in group.members:
        producer = value.producer()
        if producer is not None and producer.op_type == "DequantizeLinear":
            return read_qparams(producer)
        for user in value.consumers():
            if user.op_type == "QuantizeLinear":
                return read_qparams(user)
    return None


class _Inserter:
    """The graph under edit. Plans are made before: what reads what is asked only once."""

    def __init__(
        self, graph: ir.Graph, made: Plan, qparams: Sequence[QParams], scheme: Scheme
    ) -> None:
        self.graph = graph
        self.plan = made
        self.scheme = scheme
        self.constants = Constants(graph)
        self.of = {v: q for g, q in zip(made.groups, qparams, strict=True) for v in g.members}
        self.operands = {node: made.activations(node) for node in made.nodes}

    def fold_clamps(self) -> set[ir.Value]:
        """Remove each Relu or Clip that the saturation of its output's qparams repeats exactly.

        Returns the outputs of those removed; the tensors before them have taken their names.
        """
        removed = set()
        for before, clamp in self.plan.clamps.items():
            after = clamp.outputs[0]
            if not _saturates_like(clamp, self.of[after]) or _has_pair(before):
                continue
            ir.convenience.replace_all_uses_with(after, before, replace_graph_outputs=True)
            del self.operands[clamp]
            for node, values in self.operands.items():
                self.operands[node] = [before if v is after else v for v in values]
            name = after.name
            self.graph.remove(clamp, safe=True)
            before.name = name
            removed.add(after)
        return removed

    def pair(self, value: ir.Value) -> None:
        """Put QuantizeLinear and DequantizeLinear between a value and the nodes that read it.

        Of a value that a float node makes, only integer nodes read the pair.
        """
        producer = value.producer()
        exact = producer is None or producer not in self.plan.nodes
        readers = [
            (node, index)
            for node, index in value.uses()
            if not exact or value in self.operands.get(node, ())
        ]
        outer = value.is_graph_output() and not exact
        if not readers and not outer:
            return
        q, dq = self._pair_nodes(value)
        for node, index in readers:
            node.replace_input_with(index, dq.outputs[0])
        if outer:
            self._give_to_outside(value, dq.outputs[0])
        if producer is None:
            self.graph.insert_before(self.graph[0], [q, dq])
        else:
            self.graph.insert_after(producer, [q, dq])

    def _pair_nodes(self, value: ir.Value) -> tuple[ir.Node, ir.Node]:
        params = self.constants.params(self.of[value])
        q = ir.node("QuantizeLinear", [value, *params], name="")
        dq = ir.node("DequantizeLinear", [q.outputs[0], *params], name="")
        q.outputs[0].name, dq.outputs[0].name = (
            self.constants.short("q"),
            self.constants.short("dq"),
        )
        q.outputs[0].type = ir.TensorType(params[1].dtype or ir.DataType.UINT8)
        dq.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
        q.outputs[0].shape = dq.outputs[0].shape = value.shape
        return q, dq

    def _give_to_outside(self, value: ir.Value, dequantized: ir.Value) -> None:
        """Make the dequantized tensor the model's output, under the name of the value."""
        name = value.name
        for i, output in enumerate(self.graph.outputs):
            if output is value:
                self.graph.outputs[i] = dequantized
        value.name = self.constants.names(f"{name}_real")
        dequantized.name = name

    def quantize_constants(self, node: ir.Node) -> None:
        """Quantize the constants that a node reads where others read activations."""
        for value in self.operands[node]:
            values = array(value) if constant(value) is not None else None
            if values is None:
                continue
            rule = rule_of(node)
            if rule is not None and rule.kind == "same":
                qparams = self.of[node.outputs[0]]
            else:
                dtype, symmetric = self.scheme.activation_dtype, self.scheme.activation_symmetric
                low, high = np.min(values, initial=0.0), np.max(values, initial=0.0)
                qparams = from_range(low, high, dtype, symmetric=symmetric)
            dequantized = self.constants.dequantized(value, values, qparams)
            for index, found in enumerate(node.inputs):
                if found is value:
                    node.replace_input_with(index, dequantized)

    def input_qparams(self, node: ir.Node) -> QParams | None:
        """Return the qparams of the activations that a layer multiplies with its weight."""
        data = self.operands[node]
        return self.of.get(data[0]) if data else None


def _has_pair(value: ir.Value) -> bool:
    """Return whether the graph already quantizes a value, or gives it dequantized."""
    producer = value.producer()
    if producer is not None and producer.op_type == "DequantizeLinear":
        return True
    return any(user.op_type == "QuantizeLinear" for user in value.consumers())


def _saturates_like(clamp: ir.Node, qparams: QParams) -> bool:
    """Return whether quantizing gives the same integers without the Relu or Clip before it.

    Quantization is monotone, so Q(clip(x, a, b)) = clip(Q(x), Q(a), Q(b)).
    """
    low, high = clamp_bounds(clamp)
    if np.isnan(low) or np.isnan(high):
        return False
    qmin, qmax = qparams.limits
    return bool(quantize(low, qparams) == qmin and quantize(high, qparams) == qmax)
