"""Static quantization: QuantizeLinear/DequantizeLinear pairs around the nodes of a plan."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from qtool.model import Names, add_initializer, array, attribute, constant
from qtool.qparams import QParams, from_range, quantize
from qtool.quant.channels import channel_axis, output_scale
from qtool.quant.op_rules import rule_of, weight_index
from qtool.quant.plan import Group, Plan
from qtool.quant.selection import node_label
from qtool.quant.weights import STORAGE, to_storage
from qtool.shapes import tensor_shape

INT32_MAX = 2**31 - 1

ChooseWeight = Callable[[npt.NDArray[np.float32], int | None], QParams]


@dataclass(frozen=True)
class Scheme:
    """How activations and constant operands are quantized, and how a weight's qparams are chosen.

    choose_weight gets a weight and its channel axis (None: per tensor).
    """

    activation_dtype: str
    activation_symmetric: bool
    choose_weight: ChooseWeight


def insert(graph: ir.Graph, made: Plan, qparams: Sequence[QParams], scheme: Scheme) -> list[str]:
    """Edit the graph: quantize what the plan says; qparams[i] is of made.groups[i].

    Returns what a user should know, such as channels whose scale was widened.
    """
    return _Inserter(graph, made, qparams, scheme).run()


def fixed_qparams(group: Group) -> QParams | None:
    """Return the qparams that a group already has in the graph, from training or another tool."""
    for value in group.members:
        for node in (value.producer(), *value.consumers()):
            kind = None if node is None else node.op_type
            if kind == "DequantizeLinear" and node is value.producer():
                return read_qparams(node)
            if kind == "QuantizeLinear":
                return read_qparams(node)
    return None


def read_qparams(node: ir.Node | None) -> QParams | None:
    """Return the constant qparams of a QuantizeLinear or DequantizeLinear; None if computed."""
    if node is None:
        return None
    scale = array(node.inputs[1])
    if scale is None:
        return None
    zero = array(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] is not None else None
    integers = node.outputs[0] if node.op_type == "QuantizeLinear" else node.inputs[0]
    dtype = "uint8" if integers is None or integers.dtype is None else str(integers.dtype.numpy())
    dtype = dtype if zero is None else str(zero.dtype)
    zeros = np.zeros(scale.shape, np.int32) if zero is None else zero.astype(np.int32)
    if scale.size == 1:
        scale, zeros = scale.reshape(()), zeros.reshape(())
    axis = attribute(node, "axis", 1) if scale.ndim else None
    return QParams(scale.astype(np.float32), zeros, dtype, axis)


class _Inserter:
    def __init__(
        self, graph: ir.Graph, made: Plan, qparams: Sequence[QParams], scheme: Scheme
    ) -> None:
        self.graph = graph
        self.plan = made
        self.scheme = scheme
        self.names = Names(graph)
        self.of = {v: q for g, q in zip(made.groups, qparams, strict=True) for v in g.members}
        self.shared: dict[tuple[Any, ...], list[ir.Value]] = {}
        self.renamed: dict[str, ir.Value] = {}
        self.numbers: dict[str, int] = {}
        self.notes: list[str] = []
        # The graph changes under us: what reads what is asked before.
        self.operands = {node: made.activations(node) for node in made.nodes}

    def run(self) -> list[str]:
        weights = self._weights()
        removed = self._fold_clamps()
        for value in list(self.of):
            if value not in removed and not _has_pair(value):
                self._pair(value)
        for node in self.operands:
            if node not in removed.values():
                self._constant_operands(node)
        for (weight, axis), users in weights.items():
            self._weight(weight, axis, users)
        self._drop_unused()
        return self.notes

    def _weights(self) -> dict[tuple[ir.Value, int | None], list[ir.Node]]:
        """Return the float weights with their channel axis, and the nodes that read each."""
        found: dict[tuple[ir.Value, int | None], list[ir.Node]] = {}
        for node in self.plan.nodes:
            index = weight_index(node)
            if index is None:
                continue
            weight = node.inputs[index]
            tensor = constant(weight)
            if weight is not None and tensor is not None:
                axis = channel_axis(node, index, tensor_shape(tensor))
                found.setdefault((weight, axis), []).append(node)
            elif weight is not None:  # already behind a DequantizeLinear
                found.setdefault((weight, None), []).append(node)
        return found

    def _fold_clamps(self) -> dict[ir.Value, ir.Node]:
        """Remove each Relu or Clip that the saturation of its output's qparams repeats exactly."""
        removed = {}
        for before, clamp in self.plan.clamps.items():
            after = clamp.outputs[0]
            if not _saturates_like(clamp, self.of[after]) or _has_pair(before):
                continue
            ir.convenience.replace_all_uses_with(after, before, replace_graph_outputs=True)
            for node, values in self.operands.items():
                self.operands[node] = [before if v is after else v for v in values]
            name = after.name
            self.graph.remove(clamp, safe=True)
            before.name = name
            removed[after] = clamp
        return removed

    def _pair(self, value: ir.Value) -> None:
        """Put QuantizeLinear and DequantizeLinear between a value and the nodes that read it."""
        producer = value.producer()
        exact = producer not in self.plan.nodes or producer is None
        readers = [
            (node, index)
            for node, index in value.uses()
            if not exact or (node in self.operands and value in self.operands[node])
        ]
        outer = value.is_graph_output() and not exact
        if not readers and not outer:
            return
        q, dq = self._pair_nodes(value)
        for node, index in readers:
            node.replace_input_with(index, dq.outputs[0])
        if outer:
            name = value.name
            for i, output in enumerate(self.graph.outputs):
                if output is value:
                    self.graph.outputs[i] = dq.outputs[0]
            value.name = self.names(f"{name}_real")
            dq.outputs[0].name = name
        if producer is None:
            self.graph.insert_before(self.graph[0], [q, dq])
        else:
            self.graph.insert_after(producer, [q, dq])

    def _pair_nodes(self, value: ir.Value) -> tuple[ir.Node, ir.Node]:
        qparams = self.of[value]
        params = self._params(qparams)
        q = ir.node("QuantizeLinear", [value, *params], name="")
        dq = ir.node("DequantizeLinear", [q.outputs[0], *params], name="")
        q.outputs[0].name = self._short("q")
        dq.outputs[0].name = self._short("dq")
        q.outputs[0].type = ir.TensorType(params[1].dtype or ir.DataType.UINT8)
        dq.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
        q.outputs[0].shape = dq.outputs[0].shape = value.shape
        return q, dq

    def _short(self, stem: str) -> str:
        """Return a new name that costs few bytes: each stands in a file two or three times."""
        number = self.numbers[stem] = self.numbers.get(stem, 0) + 1
        return self.names(f"{stem}{number}")

    def _params(self, qparams: QParams) -> list[ir.Value]:
        """Return the scale and zero_point initializers; tensors of one group share them."""
        key = ("params", id(qparams))
        if key not in self.shared:
            zero = qparams.zero_point.astype(STORAGE[qparams.dtype])
            self.shared[key] = [
                add_initializer(self.graph, self._short("scale"), qparams.scale),
                add_initializer(self.graph, self._short("zero"), zero),
            ]
        return self.shared[key]

    def _constant_operands(self, node: ir.Node) -> None:
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
            dequantized = self._dequantized(value, values, qparams)
            for index, found in enumerate(node.inputs):
                if found is value:
                    node.replace_input_with(index, dequantized)

    def _dequantized(self, value: ir.Value, values: npt.NDArray[Any], qparams: QParams) -> ir.Value:
        """Return the output of a DequantizeLinear of the constant, one for each qparams."""
        key = (value, qparams.scale.tobytes(), qparams.zero_point.tobytes(), qparams.axis)
        if key not in self.shared:
            integers = to_storage(values.astype(np.float32, copy=False), qparams)
            q = self._integers(value, integers)
            self.shared[key] = [self._dequantize_node(q, qparams)]
        return self.shared[key][0]

    def _integers(self, value: ir.Value, integers: npt.NDArray[Any]) -> ir.Value:
        """Return a new constant, which takes over the name of the one that it replaces."""
        q = add_initializer(self.graph, self.names(f"{value.name}_q"), integers)
        if value.is_initializer():
            self.renamed.setdefault(value.name or "", q)
        return q

    def _dequantize_node(self, q: ir.Value, qparams: QParams) -> ir.Value:
        """Return the output of a new DequantizeLinear; a zero point of 0 needs no bytes."""
        attributes = {} if qparams.axis is None else {"axis": qparams.axis}
        inputs = [q, add_initializer(self.graph, self._short("scale"), qparams.scale)]
        if qparams.zero_point.any():
            zero = qparams.zero_point.astype(STORAGE[qparams.dtype])
            inputs.append(add_initializer(self.graph, self._short("zero"), zero))
        node = ir.node("DequantizeLinear", inputs, attributes, name="")
        output = node.outputs[0]
        output.name = self._short("dq")
        output.type, output.shape = ir.TensorType(ir.DataType.FLOAT), q.shape
        self.graph.insert_before(self.graph[0], node)
        return output

    def _weight(self, weight: ir.Value, axis: int | None, users: Sequence[ir.Node]) -> None:
        values = array(weight) if constant(weight) is not None else None
        if values is None:
            qparams = read_qparams(weight.producer())
            if qparams is not None:
                self._biases(qparams, users)
            return
        values = values.astype(np.float32, copy=False)
        qparams = self.scheme.choose_weight(values, axis)
        qparams = self._guarded(values, qparams, users)
        dequantized = self._dequantized(weight, values, qparams)
        for node in users:
            node.replace_input_with(weight_index(node) or 1, dequantized)
        self._biases(qparams, users)

    def _guarded(
        self, values: npt.NDArray[np.float32], qparams: QParams, users: Sequence[ir.Node]
    ) -> QParams:
        """Widen the scale of each channel whose int32 accumulator or bias could overflow, eq. 8."""
        for _ in range(64):
            worst = np.zeros(qparams.scale.shape)
            for node in users:
                worst = np.maximum(worst, self._largest_accumulator(values, qparams, node))
            over = worst > INT32_MAX
            if not over.any():
                return qparams
            factor = np.where(over, np.maximum(worst / INT32_MAX, 1.0) * 1.01, 1.0)
            scale = (qparams.scale * factor).astype(np.float32)
            self.notes.append(
                f"{node_label(users[0])}: widened the weight scale of {int(over.sum())} channels "
                f"so that the int32 bias fits"
            )
            qparams = replace(qparams, scale=scale)
        return qparams

    def _largest_accumulator(
        self, values: npt.NDArray[np.float32], qparams: QParams, node: ir.Node
    ) -> npt.NDArray[np.float64]:
        """Return max |acc| per channel over all inputs, of shape () or (C,)."""
        x = self._input_qparams(node)
        if x is None:
            return np.zeros(qparams.scale.shape)
        bias = self._bias(node)
        total = np.zeros(qparams.scale.shape)
        if x.dtype in ("int8", "uint8"):  # 16-bit activations accumulate in int64
            low, high = (limit - x.zero_point for limit in x.limits)
            w = quantize(values, qparams).astype(np.float64)
            w -= _along(qparams.zero_point, qparams.axis, w.ndim)
            others = tuple(i for i in range(w.ndim) if i != qparams.axis)
            top = np.maximum(w * low, w * high).sum(axis=others)
            bottom = np.minimum(w * low, w * high).sum(axis=others)
            total = np.maximum(np.abs(top), np.abs(bottom))
        if bias is not None:
            scale = output_scale(node, qparams.scale, qparams.axis).astype(np.float64)
            steps = np.abs(bias.astype(np.float64)) / (scale * float(x.scale))
            if steps.shape != total.shape:  # channels of groups share one scale
                steps = steps.reshape(-1, total.size).max(axis=0) if total.ndim else steps.max()
            total = total + steps
        return np.asarray(total)

    def _input_qparams(self, node: ir.Node) -> QParams | None:
        data = self.operands[node]
        return self.of.get(data[0]) if data else None

    def _bias(self, node: ir.Node) -> npt.NDArray[np.float32] | None:
        rule = rule_of(node)
        if rule is None or rule.bias is None or len(node.inputs) <= rule.bias:
            return None
        return array(node.inputs[rule.bias])

    def _biases(self, qparams: QParams, users: Sequence[ir.Node]) -> None:
        """Quantize biases to int32 at x_scale * w_scale with zero point 0, eq. 4."""
        for node in users:
            bias, x, rule = self._bias(node), self._input_qparams(node), rule_of(node)
            if bias is None or x is None or rule is None or rule.bias is None:
                continue
            value = node.inputs[rule.bias]
            if value is None:
                continue
            product = output_scale(node, qparams.scale, qparams.axis) * x.scale
            scale = np.asarray(product, np.float32)
            bias = np.ascontiguousarray(np.broadcast_to(bias.reshape(-1), _channels(node, bias)))
            steps = np.rint(bias.astype(np.float64) / scale.astype(np.float64))
            integers = np.clip(steps, -INT32_MAX, INT32_MAX).astype(np.int32)
            q = self._integers(value, integers)
            axis = 0 if scale.ndim else None
            zero = np.zeros(scale.shape, np.int32)
            params = QParams(scale, zero, "int32", axis)
            node.replace_input_with(rule.bias, self._dequantize_node(q, params))

    def _drop_unused(self) -> None:
        """Remove the float constants that nobody reads any more."""
        for name, value in list(self.graph.initializers.items()):
            if not value.uses() and not value.is_graph_output() and not value.is_graph_input():
                del self.graph.initializers[name]
        for name, value in self.renamed.items():
            if name not in self.graph.initializers:
                value.name = name


def _channels(node: ir.Node, bias: npt.NDArray[Any]) -> tuple[int, ...]:
    """Return the shape (C_out,) of a bias; a Gemm's may be a scalar or have leading ones."""
    shape = node.outputs[0].shape
    if node.op_type == "Gemm" and shape is not None and isinstance(shape[-1], int):
        return (shape[-1],)
    return (bias.size,)


def _along(values: npt.NDArray[Any], axis: int | None, ndim: int) -> npt.NDArray[Any]:
    if axis is None:
        return values
    shape = [1] * ndim
    shape[axis] = -1
    return values.reshape(shape)


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
    low, high = 0.0, np.inf
    if clamp.op_type == "Clip":
        ends: list[float] = []
        for index, default in ((1, -np.inf), (2, np.inf)):
            value = clamp.inputs[index] if index < len(clamp.inputs) else None
            known = array(value)
            if value is not None and known is None:
                return False
            ends.append(default if known is None else float(known.reshape(-1)[0]))
        low, high = ends
    qmin, qmax = qparams.limits
    return bool(quantize(low, qparams) == qmin and quantize(high, qparams) == qmax)
