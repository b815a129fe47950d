"""The rows of a report: the nodes that compute, with the tensor that each leads to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import onnx_ir as ir

from qtool.model import Dim, Model, all_nodes, constant, dtype_name
from qtool.quant.coverage import NodeCoverage, coverage
from qtool.quant.op_rules import CLAMPS
from qtool.quant.qdq_chains import THROUGH
from qtool.quant.selection import node_label
from qtool.shapes import infer_shapes, tensor_bytes
from qtool.stages._layers import Layer, layers_of
from qtool.stages._report_weights import (
    Weight,
    codec_of,
    float_constants,
    node_weights,
    stored_bytes,
)
from qtool.stages.verify import float_names

MAX_HOPS = 16  # nodes between one that computes and the tensor that it leads to
FORMS = ("float", "weights", "integer")  # a row of several nodes has the form of the worst


@dataclass(frozen=True)
class Stored:
    """The bytes of some constants: how they are stored, and those of the float model's."""

    kind: str  # "int8", or with codecs "int8 codebook+huffman"
    n_bytes: int


@dataclass
class Row:
    """One row: a node that computes with the clamps behind it, or a quantized input.

    tensor: what it gives, as layers_of names it; "" where that is no layer. sources: numbers of
    the rows that it is computed from.
    """

    number: int
    name: str
    op: str
    form: str
    reason: str
    shape: tuple[Dim, ...] | None
    macs: int | None
    tensor: str
    layer: Layer | None
    weights: list[Weight] = field(default_factory=list)
    stored: list[Stored] = field(default_factory=list)
    float_bytes: int = 0
    sources: tuple[int, ...] = ()

    @property
    def n_bytes(self) -> int:
        """The bytes of all constants of the row."""
        return sum(one.n_bytes for one in self.stored)


def rows_of(model: Model, reference: Model | None) -> list[Row]:
    """Return the rows in running order; reference is the float model."""
    typed = infer_shapes(model)
    layers = {layer.name: layer for layer in comparable(layers_of(model), reference)}
    constants = float_constants(reference)
    nodes: dict[str, ir.Node] = {}
    for node in all_nodes(typed):
        nodes.setdefault(node_label(node), node)
    rows: list[Row] = []
    by_tensor: dict[str, Row] = {}
    counted, float_counted = set[str](), set[str]()
    float_nodes = _by_name(reference)
    for layer in layers.values():
        if layer.op == "input":
            by_tensor[layer.name] = _input(layer, len(rows))
            rows.append(by_tensor[layer.name])
    for found in coverage(model).nodes:
        known = nodes.get(found.name)
        tensor = "" if known is None else _leads_to(known, layers)
        row = by_tensor.get(tensor)
        if row is not None and found.op_type in CLAMPS:
            _join(row, found)
        else:
            row = _row(found, len(rows), tensor, layers.get(tensor))
            rows.append(row)
            by_tensor[tensor] = row
        if known is not None:
            row.weights += node_weights(known, constants)
            row.stored += _stored(known, counted)
            row.float_bytes += _float_bytes(known, float_nodes, constants, float_counted)
    numbers = {tensor: row.number for tensor, row in by_tensor.items() if tensor}
    for row in rows:
        sources = () if row.layer is None else row.layer.sources
        row.sources = tuple(
            numbers[s] for s in sources if s in numbers and numbers[s] != row.number
        )
    return rows


def comparable(layers: Sequence[Layer], reference: Model | None) -> list[Layer]:
    """Return the layers that the reference has, too, each computed from such ones.

    Without a reference all are kept.
    """
    if reference is None:
        return list(layers)
    names = float_names(layers, reference)
    nearest: dict[str, tuple[str, ...]] = {}
    kept = []
    for layer in layers:
        before = dict.fromkeys(n for source in layer.sources for n in nearest.get(source, ()))
        nearest[layer.name] = (layer.name,) if layer.name in names else tuple(before)
        if layer.name in names or layer.qparams is not None:
            kept.append(replace(layer, sources=tuple(before)))
    return kept


def _input(layer: Layer, number: int) -> Row:
    form = "float" if layer.qparams is None else "integer"
    return Row(number, layer.name, "input", form, "", None, 0, layer.name, layer)


def _row(found: NodeCoverage, number: int, tensor: str, layer: Layer | None) -> Row:
    return Row(
        number, found.name, found.op_type, found.form, found.reason, found.shape, found.macs,
        tensor, layer,
    )  # fmt: skip


def _join(row: Row, clamp: NodeCoverage) -> None:
    """Let a row also stand for the clamp that follows."""
    row.op = f"{row.op}+{clamp.op_type}"
    if FORMS.index(clamp.form) < FORMS.index(row.form):
        row.form, row.reason = clamp.form, clamp.reason


def _leads_to(node: ir.Node, layers: Mapping[str, Layer]) -> str:
    """Return the layer that a node's output becomes through clamps and rescaling; "" for none."""
    value = node.outputs[0]
    for _ in range(MAX_HOPS):
        if value.name in layers:
            return value.name or ""
        users = {user for user in value.consumers() if user.op_type != "QuantizeLinear"}
        if len(users) != 1 or value.is_graph_output():
            return ""
        user = users.pop()
        if user.op_type not in (*CLAMPS, "Cast", "Mul", "Add") or len(user.outputs) != 1:
            return ""
        others = [v for v in user.inputs if v is not None and v is not value]
        if user.op_type not in CLAMPS and not all(_is_rescaling(v) for v in others):
            return ""
        value = user.outputs[0]
    return ""


def _is_rescaling(value: ir.Value) -> bool:
    """Return whether a value is a constant, or a scale that depends on the input."""
    if constant(value) is not None:
        return True
    producer = value.producer()
    if producer is None:
        return False
    if producer.op_type == "DynamicQuantizeLinear":
        return True
    return producer.op_type in ("Mul", "DequantizeLinear") and all(
        v is None or _is_rescaling(v) for v in producer.inputs
    )


def _constants(node: ir.Node) -> Iterator[ir.Value]:
    """Yield the constants that a node reads, at once or through Q, DQ and moves."""
    waiting, seen = [v for v in node.inputs if v is not None], set[int]()
    while waiting:
        value = waiting.pop(0)
        if id(value) in seen:
            continue
        seen.add(id(value))
        producer = value.producer()
        if constant(value) is not None:
            yield value
        elif producer is not None and producer.op_type in THROUGH:
            waiting.extend(v for v in producer.inputs if v is not None)


def _stored(node: ir.Node, counted: set[str]) -> Iterator[Stored]:
    for value in _constants(node):
        tensor = constant(value)
        if tensor is not None and value.name and value.name not in counted:
            counted.add(value.name)
            yield Stored(kind_of(tensor), stored_bytes(tensor))


def kind_of(tensor: ir.TensorProtocol) -> str:
    """Return the type of a constant, and its codecs where it is not stored as it is."""
    codec = codec_of(tensor)
    dtype = dtype_name(tensor.dtype)
    return dtype if codec == "raw" else f"{dtype} {codec}"


def _by_name(reference: Model | None) -> dict[str, ir.Node]:
    """Return the nodes of the float model by name, and by the names of their outputs."""
    found: dict[str, ir.Node] = {}
    for node in () if reference is None else all_nodes(reference):
        for name in (node_label(node), *(value.name for value in node.outputs)):
            found.setdefault(name or "", node)
    return found


def _float_bytes(
    node: ir.Node,
    float_nodes: Mapping[str, ir.Node],
    constants: Mapping[str, ir.TensorProtocol],
    counted: set[str],
) -> int:
    """Return the bytes that the constants of a node take in the float model, each counted once.

    They are those of the node of the same name, else of the constants of the same names.
    """
    twin = next(
        (
            float_nodes[name or ""]
            for name in (node_label(node), *(v.name for v in node.outputs))
            if name in float_nodes
        ),
        node,
    )
    while twin.op_type in CLAMPS and node.op_type not in CLAMPS:  # whose result node took over
        before = None if twin.inputs[0] is None else twin.inputs[0].producer()
        if before is None:
            break
        twin = before
    names = dict.fromkeys(v.name for v in _constants(twin) if v.name)
    fresh = [name for name in names if name in constants and name not in counted]
    counted.update(fresh)
    return sum(tensor_bytes(constants[name]) for name in fresh)
