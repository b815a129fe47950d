"""Weight-only quantization: integers in the file, float arithmetic.

    y = op(x, W)    becomes    y = op(x, DequantizeLinear(Wq, scale, zero_point))

A weight that several nodes share stays one tensor with one DequantizeLinear. An embedding that
is only looked up is looked up as integers, and just the rows found are dequantized.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from qtool.model import Model, add_initializer, all_nodes, array, attribute, constant
from qtool.quant.encode import FLOAT_TYPES, Encoded, WeightScheme, encode, rounded
from qtool.quant.layer_rounding import Rounder
from qtool.quant.rewrite import ShortNames, take_over
from qtool.quant.selection import node_label
from qtool.quant.weight_uses import Use, source, weight_inputs, weights

MIN_SIZE = 64  # elements; below, names and scales cost more than the integers save

Reasons = dict[str, str]


def needed_opset(model: Model, scheme: WeightScheme) -> int:
    """Return the opset that weight_only's result needs: 13, 19 for half floats, 21 for blocks."""
    if scheme.dtype not in ("int8", "uint8") or scheme.n_block:
        return 21
    halves = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
    roots = (constant(value) for value in weights(model))
    return 19 if any(t is not None and t.dtype in halves for t in roots) else 13


def weight_only(
    model: Model,
    selected: Container[ir.Node],
    scheme: WeightScheme | None = None,
    rounder: Rounder | None = None,
) -> Reasons:
    """Quantize the constant weights of the selected nodes, in place.

    Covers Conv, ConvTranspose, Gemm, MatMul, Gather, LSTM, GRU and RNN of the main graph and of
    its subgraphs, and float32, float16, bfloat16 and double weights. Biases stay float. The
    model must have opset needed_opset(model, scheme) already. With a rounder, weights whose input
    it knows are rounded by the error of the output, and biases of their own take up its mean.

    Returns:
        For each selected node of these ops that still has a float weight, by node_label, why.
    """
    scheme = scheme or WeightScheme()
    names, reasons = ShortNames(model.graph), Reasons()
    last: dict[ir.Graph, ir.Node] = {}  # DequantizeLinear put at the start of each graph
    for node in all_nodes(model):
        if node in selected and (reason := _not_constant(node)):
            reasons[node_label(node)] = reason
    for root, uses in weights(model).items():
        mine = [use for use in uses if use.is_weight and use.node in selected]
        if not mine or _tensor(root).dtype not in FLOAT_TYPES:
            continue
        reason = _why_not(root, uses, selected) or _quantize(
            root, uses, scheme, names, last, rounder
        )
        if reason:
            reasons |= {node_label(use.node): reason for use in mine}
    return reasons


def _not_constant(node: ir.Node) -> str | None:
    """Return why a weighted node has no constant weight at all; None where it has one."""
    sources = [source(value) for value in weight_inputs(node)]
    if not sources or any(constant(value) is not None for value in sources):
        return None
    if node.op_type == "Gather":
        return None  # it looks activations up
    producers = [value.producer() for value in sources]
    if any(p is not None and p.op_type == "DequantizeLinear" for p in producers):
        return None  # is quantized already
    if any(value.is_initializer() for value in sources):
        return "its weight is only the default of an input; run `qtool freeze` first"
    return "its weight is computed at run time"


def _why_not(root: ir.Value, uses: list[Use], selected: Container[ir.Node]) -> str | None:
    tensor = _tensor(root)
    if tensor.size < MIN_SIZE:
        return f"its weight {root.name!r} has only {tensor.size} elements"
    if root.is_graph_output():
        return f"its weight {root.name!r} is also an output of the model"
    for use in uses:
        if not use.is_weight or use.node not in selected:
            other = f"{node_label(use.node)} ({use.node.op_type})"
            return f"its weight {root.name!r} is also read by {other}, which stays in float"
    return None


def _quantize(
    root: ir.Value,
    uses: list[Use],
    scheme: WeightScheme,
    names: ShortNames,
    last: dict[ir.Graph, ir.Node],
    rounder: Rounder | None = None,
) -> str | None:
    tensor = _tensor(root)
    shape = tensor.shape.numpy()
    first = next((use for use in uses if use.node.op_type != "Gather"), uses[0])
    encoded = encode(tensor, scheme, first.channel(shape), first.depth(shape))
    if encoded is None:
        return f"its weight {root.name!r} holds NaN or infinity"
    if _bytes(encoded) >= tensor.nbytes:
        return f"its weight {root.name!r} would not get smaller"
    if rounder is not None and all(u.index == 1 and root is u.node.inputs[1] for u in uses):
        nodes = [use.node for use in uses]
        found = rounded(tensor, encoded, scheme, rounder, nodes, corrects=_own_biases(nodes))
        if found is not None:
            encoded = replace(encoded, integers=found[0], scale=found[1])
            _shift(nodes, found[2])
    edit = _Edit(root, encoded, names, last)
    lookups = all(use.node.op_type == "Gather" for use in uses)
    if lookups and not encoded.block_size and encoded.integers.dtype.bitwidth == 8:
        for use in uses:
            edit.after(use)
    else:
        edit.before()
    edit.finish()
    return None


def _own_biases(nodes: list[ir.Node]) -> bool:
    """Return whether each node has a constant float bias that no other node reads."""
    biases = [n.inputs[2] if len(n.inputs) > 2 else None for n in nodes]
    return all(
        node.op_type in ("Conv", "Gemm")
        and attribute(node, "beta", 1.0) == attribute(node, "alpha", 1.0) == 1.0
        and bias is not None
        and bias.is_initializer()
        and len(bias.uses()) == 1
        and (tensor := constant(bias)) is not None
        and tensor.dtype in FLOAT_TYPES
        and len(tensor.shape) == 1
        for node, bias in zip(nodes, biases, strict=True)
    )


def _shift(nodes: list[ir.Node], shift: npt.NDArray[np.float64] | None) -> None:
    """Add to the bias of each node, in its type."""
    for node in nodes if shift is not None else []:
        bias, old = node.inputs[2], array(node.inputs[2])
        assert bias is not None
        assert old is not None
        bias.const_value = ir.Tensor((old + shift).astype(old.dtype), name=bias.name)


def _bytes(encoded: Encoded) -> int:
    zero = 0 if encoded.zero_point is None else encoded.zero_point.nbytes
    return encoded.integers.nbytes + encoded.scale.nbytes + zero


def _tensor(root: ir.Value) -> ir.TensorProtocol:
    tensor = constant(root)
    assert tensor is not None, root.name  # weights() yields constants only
    return tensor


class _Edit:
    """Replaces one constant weight by its integers and DequantizeLinear nodes."""

    def __init__(
        self, root: ir.Value, encoded: Encoded, names: ShortNames, last: dict[ir.Graph, ir.Node]
    ) -> None:
        self._root, self._encoded, self._names = root, encoded, names
        self._producer = root.producer()
        graph = root.graph if self._producer is None else self._producer.graph
        assert isinstance(graph, ir.Graph), root.name
        self._graph = graph
        self._last = last
        self._dtype = _tensor(root).dtype
        name = root.name or names("weight")
        if self._producer is None:
            graph.initializers.pop(name)  # the integers take its name
        self._inputs = [add_initializer(graph, name, encoded.integers)]
        self._inputs.append(add_initializer(graph, names.short("scale"), encoded.scale))
        if encoded.zero_point is not None:
            self._inputs.append(add_initializer(graph, names.short("zero"), encoded.zero_point))

    def before(self) -> None:
        """Give every reader the dequantized weight."""
        nodes = self._dequantize(self._inputs[0], self._encoded.axis, self._root.shape)
        self._root.replace_all_uses_with(nodes[-1].outputs[0])
        if self._graph in self._last:
            self._graph.insert_after(self._last[self._graph], nodes)
        else:
            self._graph.insert_before(self._graph[0], nodes)
        self._last[self._graph] = nodes[-1]

    def after(self, use: Use) -> None:
        """Look rows up as integers; what they are read as keeps its name."""
        gather, graph = use.node, use.node.graph
        assert graph is not None
        old, axis, rank = gather.outputs[0], self._encoded.axis, len(use.axes)
        if axis is not None and axis > attribute(gather, "axis", 0) % rank:
            axis -= rank  # counted from the end: the indices may have any rank
        nodes = self._dequantize(old, axis, old.shape)
        take_over(old, nodes[-1].outputs[0], self._names)
        nodes[0].replace_input_with(0, old)
        gather.replace_input_with(0, self._inputs[0])
        old.type = ir.TensorType(self._encoded.integers.dtype)
        graph.insert_after(gather, nodes)

    def finish(self) -> None:
        """Remove the Constant node of the float weight, which nothing reads any more."""
        if self._producer is not None:
            self._graph.remove(self._producer, safe=True)

    def _dequantize(
        self, integers: ir.Value, axis: int | None, shape: ir.Shape | None
    ) -> list[ir.Node]:
        """Return the nodes whose last output is the dequantized value."""
        attributes = {} if axis is None else {"axis": axis}
        if self._encoded.block_size:
            attributes["block_size"] = self._encoded.block_size
        double = self._dtype == ir.DataType.DOUBLE
        output = self._value(ir.DataType.FLOAT if double else self._dtype, shape)
        inputs = [integers, *self._inputs[1:]]
        nodes = [ir.node("DequantizeLinear", inputs, attributes, outputs=[output], name="")]
        if double:
            to, cast = {"to": ir.DataType.DOUBLE.value}, self._value(ir.DataType.DOUBLE, shape)
            nodes.append(ir.node("Cast", [output], to, outputs=[cast], name=""))
        return nodes

    def _value(self, dtype: ir.DataType, shape: ir.Shape | None) -> ir.Value:
        copied = None if shape is None else shape.copy()
        return ir.Value(name=self._names.short("dq"), type=ir.TensorType(dtype), shape=copied)
