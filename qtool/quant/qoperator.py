"""From QDQ to QOperator: each DequantizeLinear -> op -> QuantizeLinear becomes one node.

Ops that only move elements change places with the DequantizeLinear before them, and a
DequantizeLinear next to a QuantizeLinear with the same qparams vanishes with it: rounding
(q - zero_point) * scale / scale gives q back, for |q - zero_point| < 2**16.

The outputs equal those of the QDQ model wherever onnxruntime fuses it, which is the same rewriting
made at load time. Nodes that it leaves in float there, as some with int8 activations, can differ by
one step where a value lies halfway between two integers.
"""

from __future__ import annotations

import logging
from collections import defaultdict

import numpy as np
import onnx_ir as ir

from qtool.errors import UnsupportedError
from qtool.model import Model, Names, add_initializer, all_nodes, array, attribute, constant, opset
from qtool.quant.op_rules import CLAMPS
from qtool.quant.qdq_chains import is_redundant, same_qparams
from qtool.quant.qdq_constants import read_qparams
from qtool.quant.qoperator_forms import (
    FORMS,
    MICROSOFT,
    Form,
    NoFormError,
    Quantized,
    Site,
)
from qtool.quant.qoperator_moves import MOVES, move_inputs
from qtool.quant.rewrite import take_over
from qtool.quant.selection import node_label
from qtool.quant.weights import to_storage
from qtool.shapes import infer_shapes, tensor_shape

log = logging.getLogger("qtool")

PAIR = ("QuantizeLinear", "DequantizeLinear")


def to_qoperator(model: Model) -> Model:
    """Return the QOperator form of a QDQ model, which computes the same in onnxruntime.

    Nodes that have no QOperator form stay between their DequantizeLinear and QuantizeLinear;
    the log names them.

    Raises:
        UnsupportedError: activations are of 16 bits: no QOperator takes them.
    """
    result = infer_shapes(model)
    _check_types(result)
    converter = _Converter(result)
    graphs = [result.graph, *result.graph.subgraphs()]
    for graph in graphs:
        converter.run(graph)
    for graph in reversed(graphs):
        _sweep(graph)
    converter.report()
    if any(node.domain == MICROSOFT for node in all_nodes(result)):
        result.ir.opset_imports.setdefault(MICROSOFT, 1)
    return result


def _check_types(model: Model) -> None:
    for node in all_nodes(model):
        if node.op_type != "QuantizeLinear":
            continue
        zero = node.inputs[2] if len(node.inputs) > 2 else None
        dtype = node.outputs[0].dtype if zero is None else zero.dtype
        if dtype is not None and dtype in (ir.DataType.INT16, ir.DataType.UINT16):
            raise UnsupportedError(
                f"tensor {node.inputs[0] and node.inputs[0].name!r} is quantized to "
                f"{dtype.name.lower()}, and the QOperator format has 8 bits only; use --format qdq"
            )


def _sweep(graph: ir.Graph) -> None:
    """Remove what has become unused."""
    for node in reversed(graph):
        used = any(v.uses() or v.is_graph_output() for v in node.outputs)
        if not used and node.op_type in (*PAIR, *CLAMPS, "Constant"):
            graph.remove(node, safe=True)
    for name, value in list(graph.initializers.items()):
        if not (value.uses() or value.is_graph_output() or value.is_graph_input()):
            del graph.initializers[name]


class _Converter:
    def __init__(self, model: Model) -> None:
        self._opset = opset(model)
        self._names = Names(model.graph)
        self._stays: dict[str, list[str]] = defaultdict(list)  # reason -> nodes

    def run(self, graph: ir.Graph) -> None:
        """Convert the nodes of one graph, in order."""
        for node in list(graph):
            if node.graph is None:
                continue  # has become a part of an earlier node
            if node.op_type == "QuantizeLinear":
                self._cancel(node)
                self._fold(node)
            elif node.domain in ("", "ai.onnx") and node.op_type not in PAIR:
                self._convert(node)

    def report(self) -> None:
        """Say which nodes stay as they are."""
        for reason, nodes in self._stays.items():
            log.info("no QOperator form, stays QDQ: %s: %s", ", ".join(nodes), reason)

    def _convert(self, node: ir.Node) -> None:
        inputs = [self._dequantized(value) for value in node.inputs]
        if not any(found is not None for found in inputs):
            return  # is not quantized
        after = _quantizer(node.outputs[0])
        site = Site(node, inputs, None if after is None else self._params(after), self._opset)
        try:
            if node.op_type in FORMS:
                self._put(site, FORMS[node.op_type](site))
            elif node.op_type in MOVES:
                self._move(site)
            else:
                raise NoFormError(f"there is none for {node.op_type}")
        except NoFormError as reason:
            if after is not None or any(f is not None and constant(f.integers) for f in inputs):
                self._stays[str(reason)].append(node_label(node))

    def _put(self, site: Site, form: Form) -> None:
        """Put the form in the place of the node and, unless it gives float, its quantizer."""
        node, graph = site.node, site.node.graph
        assert graph is not None
        last = node if site.output is None else site.output.node
        old = last.outputs[0]
        new = ir.node(
            form.op_type, form.inputs, form.attributes, domain=form.domain, name=node.name
        )
        output = new.outputs[0]
        output.name, output.type = self._names(f"{old.name}_{form.op_type}"), old.type
        if site.output is not None:
            output.type = ir.TensorType(site.output.dtype or ir.DataType.UINT8)
        graph.insert_before(last, new)  # where its scales are known
        take_over(old, output, self._names)
        while last is not node:  # the quantizer, and the clamps that it repeats
            source = last.inputs[0]
            graph.remove(last, safe=True)
            last = node if source is None else source.producer() or node
        graph.remove(node, safe=True)

    def _move(self, site: Site) -> None:
        """Let the node read integers, and dequantize what it gives."""
        node, x = site.node, site.data()
        quantized = move_inputs(site)
        graph = node.graph
        assert isinstance(graph, ir.Graph)
        for index, values in quantized.items():
            node.resize_inputs(max(len(node.inputs), index + 1))
            name = self._names(f"{node.outputs[0].name}_input_{index}")
            node.replace_input_with(index, add_initializer(graph, name, values))
        node.replace_input_with(0, x.integers)
        for value in node.outputs:
            self._dequantize(node, value, x)

    def _dequantize(self, node: ir.Node, value: ir.Value, x: Quantized) -> None:
        """Dequantize an output of a node that has become integer."""
        graph = node.graph
        assert graph is not None
        after = ir.node("DequantizeLinear", x.params)
        after.name = self._names(f"{value.name}_DequantizeLinear")
        output = after.outputs[0]
        output.name, output.type = self._names(f"{value.name}_dequantized"), value.type
        graph.insert_after(node, after)
        take_over(value, output, self._names)
        value.type = ir.TensorType(x.dtype or ir.DataType.UINT8)
        after.replace_input_with(0, value)

    def _cancel(self, quantize: ir.Node) -> None:
        """Drop a QuantizeLinear behind a DequantizeLinear with the same qparams."""
        source = quantize.inputs[0]
        before = None if source is None else source.producer()
        if before is None or before.op_type != "DequantizeLinear":
            return
        scale, integers = array(before.inputs[1]), before.inputs[0]
        if integers is None or scale is None or scale.size != 1:
            return
        if not same_qparams(before, quantize):
            return
        output = quantize.outputs[0]
        if not output.is_graph_output():
            output.replace_all_uses_with(integers)
        elif _is_made_in(integers, quantize.graph) and not integers.is_graph_output():
            take_over(output, integers, self._names)

    def _fold(self, quantize: ir.Node) -> None:
        """Quantize a constant, such as a weight that came from training."""
        source, output, graph = quantize.inputs[0], quantize.outputs[0], quantize.graph
        values, qparams = array(source), read_qparams(quantize)
        blocks = attribute(quantize, "block_size", 0)
        if source is None or values is None or qparams is None or blocks:
            return
        assert isinstance(graph, ir.Graph)
        name = self._names(f"{source.name}_quantized")
        integers = to_storage(values.astype(np.float32, copy=False), qparams)
        ir.convenience.replace_all_uses_with(output, add_initializer(graph, name, integers))

    def _dequantized(self, value: ir.Value | None) -> Quantized | None:
        producer = None if value is None else value.producer()
        if producer is None or producer.op_type != "DequantizeLinear":
            return None
        return self._params(producer)

    def _params(self, node: ir.Node) -> Quantized:
        """Return the qparams of a QuantizeLinear or DequantizeLinear; a missing zero point is 0."""
        scale = node.inputs[1]
        integers = node.inputs[0] if node.op_type == "DequantizeLinear" else node.outputs[0]
        zero = node.inputs[2] if len(node.inputs) > 2 else None
        assert scale is not None
        assert integers is not None
        if zero is None:
            dtype = integers.dtype or ir.DataType.UINT8
            graph = node.graph
            assert isinstance(graph, ir.Graph)
            name = self._names(f"{integers.name}_zero_point")
            tensor = constant(scale)
            shape = () if tensor is None else tensor_shape(tensor)
            zero = add_initializer(graph, name, np.zeros(shape, dtype.numpy()))
            if dtype != ir.DataType.INT32:
                node.resize_inputs(3)
                node.replace_input_with(2, zero)
        return Quantized(integers, scale, zero, node)


def _quantizer(value: ir.Value) -> ir.Node | None:
    """Return the QuantizeLinear that alone reads a value, behind clamps that it repeats."""
    while not value.is_graph_output() and len(value.uses()) == 1:
        user = value.consumers()[0]
        if user.op_type == "QuantizeLinear":
            return user
        if user.op_type not in CLAMPS or not is_redundant(user):
            return None
        value = user.outputs[0]
    return None


def _is_made_in(value: ir.Value, graph: ir.Graph | ir.Function | None) -> bool:
    producer = value.producer()
    return producer is not None and producer.graph is graph
