"""How much of a model computes in integers: by nodes, by MACs and by the size of the weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import onnx_ir as ir
from onnx_ir.passes.common import InlinePass

from qtool.cost import MACS, macs
from qtool.errors import CheckFailed
from qtool.model import Dim, Json, Model, all_nodes, attribute, constant, dtype_name
from qtool.quant.integer_form import (
    FLOAT,
    INTEGER,
    WEIGHTS,
    Form,
    form_of,
    is_quantized,
    stored_type,
    weights_of,
)
from qtool.quant.qdq_chains import quantizers, stored_weight
from qtool.quant.selection import node_label
from qtool.shapes import Shapes, named_shapes, open_dims, size, tensor_bytes, with_shapes

REASON_KEY = "qtool.float"  # metadata of a node that quantization left in float: why
ASSUMED_DIM = 256  # for dims of the inputs that nobody set: shares hardly depend on it
QDQ_OPS = {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"}
CONTROL_OPS = {"If", "Loop", "Scan"}
ACCUMULATING_OPS = {"ConvInteger", "MatMulInteger"}
REAL_TYPES = {
    ir.DataType.FLOAT,
    ir.DataType.FLOAT16,
    ir.DataType.BFLOAT16,
    ir.DataType.DOUBLE,
}


@dataclass(frozen=True)
class NodeCoverage:
    """One node that computes, and how: form is "integer", "weights" or "float"."""

    name: str
    op_type: str
    form: str
    reason: str  # why it does not compute in integers; "" when it does
    shape: tuple[Dim, ...] | None  # of its first output
    macs: int | None  # None: unknown
    n_weights: int  # elements of its constant weights
    weight_bytes: int  # as stored
    weight_dtype: str  # "" without weights
    activation_dtype: str

    @property
    def has_macs(self) -> bool:
        """Whether the node multiplies and accumulates."""
        return self.macs is None or self.macs > 0

    def to_json(self) -> dict[str, Json]:
        """Return the node as a JSON object."""
        return dict(vars(self))


@dataclass(frozen=True)
class Share:
    """Parts of a whole: what computes in integers, and what is stored as integers."""

    integer: int
    integer_weights: int  # in the forms "integer" and "weights"
    total: int

    @property
    def fraction(self) -> float:
        """The part that computes in integers, 0..1; of nothing, all of it."""
        return self.integer / self.total if self.total else 1.0

    @property
    def weights_fraction(self) -> float:
        """The part whose weights are integers, 0..1."""
        return self.integer_weights / self.total if self.total else 1.0

    def to_json(self) -> dict[str, Json]:
        """Return the share as a JSON object."""
        return {**vars(self), "fraction": self.fraction, "weights_fraction": self.weights_fraction}


@dataclass(frozen=True)
class Coverage:
    """The nodes of a model that compute, in graph order, and the islands among them.

    An island is a group of joined nodes that compute in float although their inputs are
    quantized and their outputs are quantized again.
    """

    nodes: tuple[NodeCoverage, ...]
    islands: tuple[tuple[str, ...], ...] = ()
    assumed_dim: int | None = None  # what MACs were counted with for dims nobody set

    @property
    def by_nodes(self) -> Share:
        """The share of the nodes that compute."""
        return _share(self.nodes, lambda node: 1)

    @property
    def by_macs(self) -> Share:
        """The share of the known multiply-accumulates."""
        return _share(self.nodes, lambda node: node.macs or 0)

    @property
    def by_bytes(self) -> Share:
        """The share of the weights, in the bytes they take in float32."""
        return _share(self.nodes, lambda node: 4 * node.n_weights)

    @property
    def n_unknown_macs(self) -> int:
        """The number of nodes whose MACs are unknown."""
        return sum(node.macs is None for node in self.nodes)

    @property
    def float_nodes(self) -> tuple[NodeCoverage, ...]:
        """The nodes that do not compute in integers, each with its reason."""
        return tuple(node for node in self.nodes if node.form != INTEGER)

    @property
    def is_quantized(self) -> bool:
        """Whether anything at all is quantized."""
        return any(node.form != FLOAT for node in self.nodes)

    def require(self, percent: float | None) -> None:
        """Fail when less than percent of the MACs computes in integers.

        Raises:
            CheckFailed: it is less, or MACs are unknown; names the first node that is left.
        """
        share = self.by_macs
        if percent is None or (100 * share.fraction >= percent and not self.n_unknown_macs):
            return
        left = [node for node in self.float_nodes if node.macs is None or node.macs]
        first = f": {left[0].name} ({left[0].op_type}): {left[0].reason}" if left else ""
        more = f"; and {len(left) - 1} more, see qtool inspect" if len(left) > 1 else ""
        unknown = f" (those of {self.n_unknown_macs} nodes are unknown)" * bool(self.n_unknown_macs)
        raise CheckFailed(
            f"{100 * share.fraction:.2f} % of the MACs compute in integers{unknown}, "
            f"{percent:g} % are needed{first}{more}"
        )

    def to_json(self) -> dict[str, Json]:
        """Return the coverage as a JSON object."""
        return {
            "nodes": self.by_nodes.to_json(),
            "macs": self.by_macs.to_json(),
            "bytes": self.by_bytes.to_json(),
            "n_unknown_macs": self.n_unknown_macs,
            "assumed_dim": self.assumed_dim,
            "float_nodes": [
                {"name": n.name, "op_type": n.op_type, "form": n.form, "reason": n.reason}
                for n in self.float_nodes
            ],
            "islands": [list(island) for island in self.islands],
        }


def coverage(
    model: Model,
    reasons: Mapping[str, str] | None = None,
    *,
    dims: Mapping[str, int] | None = None,
) -> Coverage:
    """Return what of a model computes in integers, from its graph alone.

    reasons tells, by node_label, why quantization left a node alone; it and the metadata that
    quantize writes go before what the graph says. dims sets symbolic dims of the inputs; the
    batch is 1 by default, other dims that are not set count as ASSUMED_DIM.
    """
    assumed = ASSUMED_DIM if open_dims(model, dims) else None
    typed = with_shapes(_inlined(model), dims, assume=assumed)
    sizes = named_shapes(typed)
    told = reasons or {}
    forms = {node: form_of(node) for node in all_nodes(typed) if _computes(node)}
    rows = tuple(_row(node, form, sizes, told) for node, form in forms.items())
    return Coverage(rows, tuple(_islands(forms)), assumed)


def _inlined(model: Model) -> Model:
    """Return the model with calls of its own functions replaced by their nodes."""
    if not model.ir.functions:
        return model
    copy = model.copy()
    InlinePass()(copy.ir)
    return copy


def _computes(node: ir.Node) -> bool:
    """Return whether a node is part of what the model computes from its inputs.

    Not counted are constants and what is computed from them, shapes and other index arithmetic,
    QuantizeLinear and its like, and the rescaling behind an integer operator.
    """
    if node.op_type in QDQ_OPS | CONTROL_OPS or not node.outputs or not node.inputs:
        return False
    if all(value is None or stored_weight(value) is not None for value in node.inputs):
        return False
    if node.op_type in MACS:
        return True
    output = node.outputs[0]
    real = output.dtype in REAL_TYPES or is_quantized(output) or output.dtype is None
    return real and not _rescales(node)


def _rescales(node: ir.Node) -> bool:
    """Return whether a node turns int32 accumulators into float, or makes their scale.

    That is a Cast, then a Mul by the scale, then an Add of the bias.
    """
    before = {"Cast": ACCUMULATING_OPS, "Mul": {"Cast"}, "Add": {"Mul"}}.get(node.op_type)
    if before is None:
        return False
    producers = [None if value is None else value.producer() for value in node.inputs]
    sources = [p for p in producers if p is not None and p.op_type in before]
    if node.op_type == "Cast":
        return bool(sources)
    if node.op_type == "Add" and not any(
        v is not None and stored_weight(v) is not None for v in node.inputs
    ):
        return False
    if any(_rescales(p) for p in sources):
        return True
    dynamic = [p is not None and p.op_type == "DynamicQuantizeLinear" for p in producers]
    known = [value is not None and constant(value) is not None for value in node.inputs]
    return any(dynamic) and all(d or k for d, k in zip(dynamic, known, strict=True))


def _row(node: ir.Node, form: Form, sizes: Shapes, reasons: Mapping[str, str]) -> NodeCoverage:
    label = node_label(node)
    noted = node.metadata_props.get(REASON_KEY, form.reason)
    reason = "" if form.name == INTEGER else reasons.get(label, noted)
    weights = [w for value in weights_of(node) if (w := stored_weight(value)) is not None]
    tensors = [tensor for w in weights if (tensor := constant(w)) is not None]
    count = sum(size(tuple(int(d) for d in t.shape.numpy())) or 0 for t in tensors)
    if node.op_type == "MatMulNBits":
        count = int(attribute(node, "N", 0)) * int(attribute(node, "K", 0))
    return NodeCoverage(
        label,
        node.op_type,
        form.name,
        reason,
        sizes.get(node.outputs[0].name or ""),
        macs(node, sizes),
        count,
        sum(map(tensor_bytes, tensors)),
        dtype_name(tensors[0].dtype) if tensors else "",
        _activation_dtype(node),
    )


def _activation_dtype(node: ir.Node) -> str:
    """Return the type of the first input that is not a weight: its integers, if it has some."""
    for value in node.inputs:
        if value is not None and stored_weight(value) is None:
            return stored_type(value) or ("" if value.dtype is None else dtype_name(value.dtype))
    return ""


def _share(nodes: Iterable[NodeCoverage], measure: Callable[[NodeCoverage], int]) -> Share:
    sums = {INTEGER: 0, WEIGHTS: 0, FLOAT: 0}
    for node in nodes:
        sums[node.form] += measure(node)
    return Share(sums[INTEGER], sums[INTEGER] + sums[WEIGHTS], sum(sums.values()))


def _islands(forms: Mapping[ir.Node, Form]) -> Iterator[tuple[str, ...]]:
    """Yield the names of joined nodes in float that lie between integers on both sides."""
    left = {node for node, form in forms.items() if form.name != INTEGER}
    for start in list(forms):
        if start not in left:
            continue
        island = _joined(start, left)
        left -= island
        quantized_in = any(_reads_integers(node) for node in island)
        quantized_out = any(quantizers(v) is not None for node in island for v in node.outputs)
        if quantized_in and quantized_out:
            yield tuple(node_label(node) for node in forms if node in island)


def _reads_integers(node: ir.Node) -> bool:
    activations = [v for v in node.inputs if v is not None and stored_weight(v) is None]
    return any(is_quantized(value) for value in activations)


def _joined(start: ir.Node, among: set[ir.Node]) -> set[ir.Node]:
    """Return start and what edges join to it, without leaving among."""
    seen, waiting = {start}, [start]
    while waiting:
        node = waiting.pop()
        near = [user for value in node.outputs for user in value.consumers()]
        near += [p for v in node.inputs if v is not None and (p := v.producer()) is not None]
        for other in near:
            if other in among and other not in seen:
                seen.add(other)
                waiting.append(other)
    return seen
