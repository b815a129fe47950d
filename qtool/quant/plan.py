"""Plan: which nodes of a graph compute in integers and which tensors share their qparams."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from qtool.model import Model, Statistics, array, constant
from qtool.quant.op_rules import CLAMPS, FLOAT_OUTPUT_OPS, Rule, rule_of, weight_index
from qtool.shapes import tensor_shape

#: A tensor in front of Softmax with values this low carries a mask, which must stay exact.
MASK = -1e4

Selected = Callable[[ir.Node], str | None]  # why a node is not to be quantized, or None


@dataclass
class Group:
    """Tensors that share their qparams, in graph order."""

    members: list[ir.Value]
    observed: list[ir.Value]  # their values are all there is: the others only repeat them
    constants: list[ir.Value]  # operands that are only moved, such as an embedding table
    keep_range: bool  # minmax whatever the method: rare extremes are the signal


@dataclass
class Plan:
    """What static quantization does to the main graph."""

    nodes: dict[ir.Node, Rule]  # compute in integers, in graph order
    groups: list[Group] = field(default_factory=list)
    clamps: dict[ir.Value, ir.Node] = field(default_factory=dict)  # output -> its only reader
    biased: dict[ir.Node, ir.Node] = field(default_factory=dict)  # MatMul -> Add of its bias
    reasons: dict[ir.Node, str] = field(default_factory=dict)  # why the others stay in float
    tail: set[ir.Node] = field(default_factory=set)
    integer_outputs: bool = False

    def gives_float(self, node: ir.Node) -> bool:
        """Return whether a node's accumulators become float32 without qparams of their own."""
        if node in self.biased:
            return True
        return node.op_type in FLOAT_OUTPUT_OPS and node in self.tail and not self.integer_outputs

    def activations(self, node: ir.Node) -> list[ir.Value]:
        """Return the inputs of a node that carry activations or constant operands."""
        rule = rule_of(node)
        if rule is None:
            return []
        if node in self.biased.values():
            return []  # the accumulators of its MatMul, and a bias
        index = weight_index(node)
        weight = None if index is None else node.inputs[index]
        return [v for v in rule.data_inputs(node) if v is not weight]


def observed(model: Model) -> list[str]:
    """Return the names of the tensors whose ranges static quantization may need."""
    found = dict.fromkeys(
        value.name or ""
        for integer_outputs in (False, True)
        for group in plan(model, integer_outputs=integer_outputs).groups
        for value in group.observed
    )
    return list(found)


def plan(
    model: Model,
    selected: Selected = lambda node: None,
    statistics: Statistics | None = None,
    *,
    integer_outputs: bool = False,
) -> Plan:
    """Return the plan for the main graph of a model whose tensors have known types.

    statistics let the plan see masks that are computed at run time. integer_outputs also
    quantizes what only the outputs depend on.
    """
    made = Plan({}, tail=_tail(model.graph), integer_outputs=integer_outputs)
    candidates = _candidates(model, made, selected, statistics)
    made.biased = _biased(candidates)
    chosen = _spread(candidates, made)
    for node in candidates:
        if node in chosen:
            made.nodes[node] = candidates[node]
        else:
            made.reasons[node] = _unreached(node, made)
    made.clamps = _clamps(made)
    made.groups = _groups(made)
    return made


def _candidates(
    model: Model, made: Plan, selected: Selected, statistics: Statistics | None
) -> dict[ir.Node, Rule]:
    """Return the nodes that have an integer form; the reasons of the others go into the plan."""
    found: dict[ir.Node, Rule] = {}
    minimum = {} if statistics is None else {n: t.minimum for n, t in statistics.tensors.items()}
    for node in model.graph:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear", "Constant"):
            continue
        rule = rule_of(node)
        if rule is None:
            made.reasons[node] = selected(node) or f"{node.op_type} has no integer form"
            continue
        reason = selected(node) or _wrong_type(node, rule) or rule.check(node)
        reason = reason or _masked(node, rule, minimum)
        if reason is None:
            found[node] = rule
        else:
            made.reasons[node] = reason
    return found


def _wrong_type(node: ir.Node, rule: Rule) -> str | None:
    for value in (*rule.data_inputs(node), node.outputs[0]):
        if value.dtype not in (None, ir.DataType.FLOAT):
            return f"its tensor {value.name!r} is {str(value.dtype).lower()}, not float"
    return None


def _masked(node: ir.Node, rule: Rule, minimum: Mapping[str, float]) -> str | None:
    for value in (*rule.data_inputs(node), node.outputs[0]):
        known = array(value) if constant(value) is not None else None
        if known is not None:
            low = float(np.min(known, initial=0.0))
        else:
            low = minimum.get(value.name or "", 0.0)
        if low <= MASK and _reaches_softmax(value):
            return f"its tensor {value.name!r} carries an additive mask (minimum {low:g})"
    return None


def _reaches_softmax(value: ir.Value) -> bool:
    through = (
        "Add",
        "Sub",
        "Where",
        "Reshape",
        "Transpose",
        "Expand",
        "Unsqueeze",
        "Slice",
        "Cast",
    )
    return any(
        user.op_type == "Softmax" or (user.op_type in through and _reaches_softmax(user.outputs[0]))
        for user in value.consumers()
    )


def _biased(candidates: Mapping[ir.Node, Rule]) -> dict[ir.Node, ir.Node]:
    """Return each MatMul with a constant weight whose only reader adds a constant vector."""
    found = {}
    for node in candidates:
        output = node.outputs[0]
        if node.op_type != "MatMul" or weight_index(node) is None or output.is_graph_output():
            continue
        users = output.consumers()
        if len(output.uses()) == 1 and users[0].op_type == "Add" and users[0] in candidates:
            other = users[0].inputs[1 if users[0].inputs[0] is output else 0]
            bias = constant(other)
            if bias is not None and sum(d != 1 for d in tensor_shape(bias)) <= 1:
                found[node] = users[0]
    return found


def _spread(candidates: Mapping[ir.Node, Rule], made: Plan) -> set[ir.Node]:
    """Return the weighted nodes and those that join them: nothing is quantized for itself."""
    chosen = {node for node, rule in candidates.items() if rule.kind == "weighted"}
    n_before = -1
    while n_before < len(chosen):
        n_before = len(chosen)
        for node, rule in candidates.items():
            if node not in chosen and _joins(node, rule, chosen, made):
                chosen.add(node)
        for node in reversed(list(candidates)):
            if (
                node not in chosen
                and candidates[node].kind == "same"
                and _feeds(node, chosen, made)
            ):
                chosen.add(node)
    return chosen


def _joins(node: ir.Node, rule: Rule, chosen: set[ir.Node], made: Plan) -> bool:
    """Return whether a node reads integers and so computes in integers itself."""
    data = rule.data_inputs(node)
    if not data:
        return False
    bias_of = [m for m, add in made.biased.items() if add is node and m in chosen]
    if bias_of:
        return made.integer_outputs or node not in made.tail
    fed = [v for v in data if (p := v.producer()) in chosen and p and not made.gives_float(p)]
    if made.integer_outputs or node not in made.tail or _clamps_only(node, fed):
        return bool(fed)
    return rule.kind == "same" and len(data) == 1 == len(fed)


def _clamps_only(node: ir.Node, fed: list[ir.Value]) -> bool:
    return node.op_type in CLAMPS and bool(fed) and len(fed[0].uses()) == 1


def _feeds(node: ir.Node, chosen: set[ir.Node], made: Plan) -> bool:
    users = [(v, u) for v in node.outputs for u in v.consumers()]
    return any(u in chosen and v in made.activations(u) for v, u in users)


def _unreached(node: ir.Node, made: Plan) -> str:
    if node in made.tail:
        return "only the model's outputs depend on it: kept in float for precision"
    return "no integer layer before it"


def _clamps(made: Plan) -> dict[ir.Value, ir.Node]:
    """Return each Relu or Clip that is the only reader of what an integer node computes."""
    found = {}
    for node, rule in made.nodes.items():
        output = node.outputs[0]
        if rule.kind == "same" or made.gives_float(node) or output.is_graph_output():
            continue
        users = output.consumers()
        if len(output.uses()) == 1 and users[0].op_type in CLAMPS and users[0] in made.nodes:
            found[output] = users[0]
    return found


def _groups(made: Plan) -> list[Group]:
    sets, implied = _Sets(), set[ir.Value]()
    constants: dict[ir.Value, list[ir.Value]] = {}
    for node, rule in made.nodes.items():
        operands = made.activations(node)
        data = [v for v in operands if constant(v) is None]
        outputs = [] if made.gives_float(node) else _float_outputs(node)
        sets.add([*data, *outputs])
        clamp = bool(data) and made.clamps.get(data[0]) is node
        if rule.kind == "same" or clamp:
            sets.join([*data, *outputs])
            if data:  # a Concat or a clamp has all values in its output, other ops in their input
                implied.update(data if clamp or rule.data is None else outputs)
            constants.setdefault(outputs[0], []).extend(v for v in operands if v not in data)
    return [_group(members, implied, constants, made) for members in sets.all()]


def _group(
    members: list[ir.Value],
    implied: set[ir.Value],
    constants: Mapping[ir.Value, list[ir.Value]],
    made: Plan,
) -> Group:
    return Group(
        members,
        [v for v in members if v not in implied] or members[:1],
        [c for v in members for c in constants.get(v, ())],
        any(_keeps_range(v, made) for v in members),
    )


def _float_outputs(node: ir.Node) -> list[ir.Value]:
    return [v for v in node.outputs if v.name and v.dtype in (None, ir.DataType.FLOAT)]


def _keeps_range(value: ir.Value, made: Plan) -> bool:
    """Return whether a Softmax, a Sigmoid or the model's outputs read this tensor."""
    return value.is_graph_output() or any(
        user.op_type in ("Softmax", "Sigmoid") or (user in made.tail and user not in made.nodes)
        for user in value.consumers()
    )


class _Sets:
    """Disjoint sets of values, kept in the order in which their members came."""

    def __init__(self) -> None:
        self._parent: dict[ir.Value, ir.Value] = {}

    def add(self, values: Iterable[ir.Value]) -> None:
        for value in values:
            self._parent.setdefault(value, value)

    def join(self, values: Iterable[ir.Value]) -> None:
        roots = [self._root(v) for v in values]
        for root in roots[1:]:
            self._parent[self._root(root)] = self._root(roots[0])

    def all(self) -> list[list[ir.Value]]:
        found: dict[ir.Value, list[ir.Value]] = {}
        for value in self._parent:
            found.setdefault(self._root(value), []).append(value)
        return list(found.values())

    def _root(self, value: ir.Value) -> ir.Value:
        while self._parent[value] is not value:
            value = self._parent[value]
        return value


def _tail(graph: ir.Graph) -> set[ir.Node]:
    """Return the nodes behind which there is no weighted node: those that make the outputs."""
    body: set[ir.Node] = set()
    for node in reversed(graph):
        users = [u for value in node.outputs for u in value.consumers()]
        if any(u in body or _is_weighted(u) for u in users):
            body.add(node)
    return {node for node in graph if node not in body}


def _is_weighted(node: ir.Node) -> bool:
    rule = rule_of(node)
    recurrent = node.op_type in ("LSTM", "GRU", "RNN")
    return recurrent or (rule is not None and rule.kind == "weighted")
