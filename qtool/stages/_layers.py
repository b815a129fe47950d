"""The tensors of a quantized model that runtimes can be compared at, and what each is made of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from qtool.model import Model, constant
from qtool.qparams import QParams
from qtool.quant.op_rules import CLAMPS
from qtool.quant.qdq_constants import read_qparams
from qtool.shapes import infer_shapes

FLOATS = (ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16)
QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"


@dataclass(frozen=True)
class Layer:
    """One tensor: integers that a QuantizeLinear gives, or floats that nothing quantizes.

    name: the float tensor's. fetched: the tensor that holds it in the quantized model. names: what
    a float model may call it. sources: the names of the layers that it is computed from.
    """

    name: str
    op: str
    fetched: str
    names: tuple[str, ...]
    qparams: QParams | None
    sources: tuple[str, ...]


def layers_of(model: Model) -> list[Layer]:
    """Return the layers of the main graph, in running order.

    A float tensor that only becomes integers, at once or through Relu and Clip, is no layer of
    its own: integer kernels never make it.
    """
    graph = infer_shapes(model).graph
    found: dict[ir.Value, Layer] = {}
    live = {value for value in graph.inputs if value.name not in graph.initializers}
    for node in graph:
        if not any(value in live for value in node.inputs):
            continue
        live.update(node.outputs)
        for value in node.outputs:
            layer = _layer(node, value, found)
            if layer is not None:
                found[value] = layer
    return list(found.values())


def _layer(node: ir.Node, value: ir.Value, found: Mapping[ir.Value, Layer]) -> Layer | None:
    if node.op_type == DEQUANTIZE or not value.name:
        return None
    if node.op_type != QUANTIZE:
        if value.dtype not in FLOATS or not _stays_float(value):
            return None
        sources = _sources(node.inputs, found)
        return Layer(value.name, node.op_type, value.name, (value.name,), None, sources)
    real, qparams = node.inputs[0], read_qparams(node)
    if real is None or real.name is None or qparams is None:
        return None
    back = [d.outputs[0].name for d in value.consumers() if d.op_type == DEQUANTIZE]
    names = dict.fromkeys([real.name, *(name for name in back if name)])
    op = _made_by(real)
    return Layer(real.name, op, value.name, tuple(names), qparams, _sources([real], found))


def _stays_float(value: ir.Value) -> bool:
    users = list(value.consumers())
    if value.is_graph_output() or not users:
        return value.is_graph_output()
    if any(user.op_type == QUANTIZE for user in users):
        return False
    return len(users) > 1 or users[0].op_type not in CLAMPS or _stays_float(users[0].outputs[0])


def _made_by(value: ir.Value) -> str:
    """Return the op that makes a value, and what clamps it: Conv+Relu."""
    producer = value.producer()
    if producer is None:
        return "input"
    before = producer.inputs[0] if producer.inputs else None
    if producer.op_type in CLAMPS and before is not None and len(before.consumers()) == 1:
        made = before.producer()
        if made is not None and made.op_type != DEQUANTIZE:
            return f"{_made_by(before)}+{producer.op_type}"
    return producer.op_type


def _sources(values: Iterable[ir.Value | None], found: Mapping[ir.Value, Layer]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(layer.name for layer in _before(values, found)))


def _before(values: Iterable[ir.Value | None], found: Mapping[ir.Value, Layer]) -> Iterator[Layer]:
    """Yield the nearest layers that values are computed from."""
    waiting, seen = list(values), set()
    while waiting:
        value = waiting.pop(0)
        if value is None or value in seen or constant(value) is not None:
            continue
        seen.add(value)
        producer = value.producer()
        if value in found:
            yield found[value]
        elif producer is not None:
            waiting.extend(producer.inputs)
