"""Float models in which just one layer computes as in the quantized model.

The layer is there twice: as it is, and with the weights, bias and grids of its pair; what follows
reads the second. Grids are computed with elementwise ops, which no runtime fuses or replaces:

    x' = (clip(round(x / scale) + zero, qmin, qmax) - zero) * scale
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from qtool.model import Model, Names, add_initializer
from qtool.qparams import QParams
from qtool.quant.pairs import Pair


@dataclass(frozen=True)
class Isolated:
    """A model with one quantized layer. real and quantized are the names of its two outputs."""

    model: Model
    real: str
    quantized: str
    outputs: tuple[str, ...]  # of the model


def isolate(reference: Model, pair: Pair) -> Isolated:
    """Return the float model in which only the layer of the pair is quantized."""
    copy = reference.copy()
    graph = copy.graph
    index = next(i for i, node in enumerate(reference.graph) if node is pair.node)
    node = next(n for i, n in enumerate(graph) if i == index)
    edit = _Edit(graph, Names(graph))
    last = _last(node, len(pair.clamps))
    copied = edit.twin(node, pair)
    for clamp in _chain(node, len(pair.clamps)):
        copied = edit.again(clamp, copied.outputs[0])
    result = copied.outputs[0]
    anchor = last.outputs[0].producer()
    assert anchor is not None
    if pair.output_qparams is not None:
        result = edit.grid(result, pair.output_qparams)
    graph.insert_after(anchor, edit.added)
    given = [o.name or "" for o in graph.outputs]
    mine = set(edit.added)
    real = last.outputs[0]
    for user, at in list(real.uses()):
        if user not in mine:
            user.replace_input_with(at, result)
    for i, output in enumerate(graph.outputs):
        if output is real:
            graph.outputs[i] = result
            given[i] = result.name or ""
    return Isolated(copy, real.name or "", result.name or "", tuple(given))


def _chain(node: ir.Node, n: int) -> list[ir.Node]:
    found: list[ir.Node] = []
    for _ in range(n):
        node = next(u for u in node.outputs[0].consumers())
        found.append(node)
    return found


def _last(node: ir.Node, n: int) -> ir.Node:
    return _chain(node, n)[-1] if n else node


class _Edit:
    """New nodes for a graph, in running order."""

    def __init__(self, graph: ir.Graph, names: Names) -> None:
        self.graph, self.names = graph, names
        self.added: list[ir.Node] = []

    def twin(self, node: ir.Node, pair: Pair) -> ir.Node:
        """Return a copy of the node with quantized inputs, weight and bias."""
        inputs = list(node.inputs)
        for index, _, qparams in pair.inputs:
            value = inputs[index]
            assert value is not None
            inputs[index] = self.grid(value, qparams)
        if pair.weight is not None and pair.weight_at is not None:
            inputs[pair.weight_at] = self._constant(pair.weight.real)
        if pair.bias is not None and len(inputs) > 2:
            given = inputs[2]
            shape = None if given is None or given.const_value is None else given.const_value.shape
            bias = pair.bias.real
            if shape is not None and int(np.prod(shape.numpy())) == bias.size:
                bias = bias.reshape(shape.numpy())
            inputs[2] = self._constant(bias)
        return self._add(node.op_type, inputs, list(node.attributes.values()), node.domain)

    def again(self, node: ir.Node, value: ir.Value) -> ir.Node:
        """Return a copy of a node that reads value first."""
        inputs = [value, *node.inputs[1:]]
        return self._add(node.op_type, inputs, list(node.attributes.values()), node.domain)

    def grid(self, value: ir.Value, qparams: QParams) -> ir.Value:
        """Return the value as the grid of per-tensor qparams rounds it."""
        qmin, qmax = qparams.limits
        zero = float(qparams.zero_point)
        scale = self._constant(np.asarray(qparams.scale, np.float32).reshape(()))
        steps = self._step("Round", [self._step("Div", [value, scale])])
        low, high = (self._constant(np.float32(q - zero)) for q in (qmin, qmax))
        clipped = self._step("Min", [self._step("Max", [steps, low]), high])
        return self._step("Mul", [clipped, scale])

    def _step(self, op: str, inputs: list[ir.Value | None]) -> ir.Value:
        return self._add(op, inputs, []).outputs[0]

    def _add(
        self, op: str, inputs: list[ir.Value | None], attributes: list[ir.Attr], domain: str = ""
    ) -> ir.Node:
        node = ir.Node(domain, op, inputs, attributes, num_outputs=1)
        node.outputs[0].name = self.names("isolated")
        node.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
        self.added.append(node)
        return node

    def _constant(self, values: object) -> ir.Value:
        return add_initializer(self.graph, self.names("isolated"), np.asarray(values, np.float32))
