"""costs: what each layer takes: arithmetic, memory traffic, time at the roofline, energy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from qtool.cost import macs
from qtool.model import Json, Model, all_nodes, array
from qtool.quant.coverage import ASSUMED_DIM, coverage
from qtool.quant.integer_form import FLOAT, INTEGER, form_of, weights_of
from qtool.quant.qdq_chains import stored_weight
from qtool.quant.selection import node_label
from qtool.quant.weights import quantize_weight
from qtool.runtime import peaks
from qtool.shapes import Shapes, named_shapes, open_dims, size, tensor_bytes, with_shapes
from qtool.stages._energy import microjoules

FORMS = ("float", "int8", "packed")
GRIDS = ("QuantizeLinear", "DequantizeLinear")
MOST_WEIGHTS = 1 << 26  # elements whose entropy is counted


@dataclass(frozen=True)
class Machine:
    """The roofline: 1e9 multiply-accumulates and bytes per second of one core.

    cache_gb is of a copy within the second cache, memory_gb of one that no cache holds.
    """

    integer_gmacs: float
    float_gmacs: float
    cache_gb: float
    memory_gb: float

    def milliseconds(self, macs: int, is_float: bool, weights: float, activations: float) -> float:
        """Return the least time: arithmetic and memory at their peaks, the slower of the two."""
        return max(self.compute_ms(macs, is_float), self.memory_ms(weights, activations))

    def compute_ms(self, macs: int, is_float: bool) -> float:
        """Return the time of the arithmetic at its peak."""
        return macs / (self.float_gmacs if is_float else self.integer_gmacs) / 1e6

    def memory_ms(self, weights: float, activations: float) -> float:
        """Return the time of weights from memory, and activations within the cache."""
        return weights / self.memory_gb / 1e6 + activations / self.cache_gb / 1e6


@dataclass(frozen=True)
class LayerCost:
    """One node. bytes, ms (least, at the roofline) and uj are by form: as it is, and in FORMS.

    intensity: multiply-accumulates per byte moved as it is; bound: "compute" or "memory".
    """

    name: str
    op: str
    form: str
    macs: int
    weight_bytes: int
    activation_bytes: int
    intensity: float
    bound: str
    ms: Mapping[str, float]
    uj: Mapping[str, float]


@dataclass(frozen=True)
class GridCost:
    """A QuantizeLinear or DequantizeLinear that no integer operator takes in, and its traffic."""

    tensor: str
    op: str
    beside: str  # the float node that needs it
    bytes: int
    ms: float


@dataclass(frozen=True)
class Island:
    """Float nodes between integers, and what they and the grids around them cost at least."""

    nodes: tuple[str, ...]
    macs: int
    ms: float
    integer_ms: float  # what the same takes in integers


@dataclass(frozen=True)
class Costs:
    """What a model takes. totals: of ms and uj by form; bytes of weights by form."""

    machine: Machine
    layers: tuple[LayerCost, ...]
    islands: tuple[Island, ...]
    grids: tuple[GridCost, ...]
    weight_bytes: Mapping[str, float]
    assumed_dim: int | None

    def total(self, form: str) -> tuple[float, float]:
        """Return milliseconds and microjoules of all layers in a form."""
        return sum(c.ms[form] for c in self.layers), sum(c.uj[form] for c in self.layers)

    def to_json(self) -> dict[str, Json]:
        """Return the costs as a JSON object."""
        totals = {form: self.total(form) for form in ("now", *FORMS)}
        return {
            "machine": asdict(self.machine),
            "totals": {f: {"ms": ms, "uj": uj} for f, (ms, uj) in totals.items()},
            "weight_bytes": dict(self.weight_bytes),
            "assumed_dim": self.assumed_dim,
            "layers": [asdict(layer) for layer in self.layers],
            "islands": [asdict(island) for island in self.islands],
            "grids": [asdict(grid) for grid in self.grids],
        }


def costs(
    model: Model, *, dims: Mapping[str, int] | None = None, machine: Machine | None = None
) -> Costs:
    """Return what each node takes as it is, all in float, in int8, and with packed weights.

    Packed weights take their entropy: what an ideal coder of single values needs. machine is by
    default measured: one core of this one. dims are those of `inspect`.
    """
    machine = machine or measured()
    assumed = ASSUMED_DIM if open_dims(model, dims) else None
    typed = with_shapes(model, dims, assume=assumed)
    known = named_shapes(typed)
    names = {layer.name for layer in coverage(model, dims=dims).nodes}
    nodes = [n for n in all_nodes(typed) if node_label(n) in names and n.op_type not in GRIDS]
    rows = [_layer(node, known, machine) for node in nodes]
    layers = tuple(cost for cost, _ in rows)
    weights = {form: sum(w[form] for _, w in rows) for form in ("now", *FORMS)}
    grids = tuple(_grids(typed, known, machine))
    islands = tuple(
        _island(island, {layer.name: layer for layer in layers}, grids)
        for island in coverage(model, dims=dims).islands
    )
    return Costs(machine, layers, islands, grids, weights, assumed)


def measured() -> Machine:
    """Return the roofline of one core of this machine."""
    found = peaks.measure(1)
    integers = [rate for kernel, rate in found.gmacs.items() if not kernel.startswith("fma")]
    floats = [rate for kernel, rate in found.gmacs.items() if kernel.startswith("fma")]
    top = max(integers, default=1.0)
    return Machine(top, max(floats, default=top / 4), found.gb, peaks.memory_rate())


def _layer(node: ir.Node, known: Shapes, machine: Machine) -> tuple[LayerCost, dict[str, float]]:
    form = form_of(node).name
    count = macs(node, known) or 0
    sources = [w for value in weights_of(node) if (w := stored_weight(value)) is not None]
    weights = _weight_bytes(sources)
    elements = sum(
        size(known.get(v.name or "")) or 0
        for v in (*node.inputs, *node.outputs)
        if v is not None and stored_weight(v) is None
    )
    width = 1 if form == INTEGER else 4
    forms = {
        "now": (form != INTEGER, weights["now"], width * elements),
        "float": (True, weights["float"], 4 * elements),
        "int8": (False, weights["int8"], elements),
        "packed": (False, weights["packed"], elements),
    }
    _, now, activations = forms["now"]
    slow = machine.compute_ms(count, form != INTEGER) >= machine.memory_ms(now, activations)
    return (
        LayerCost(
            node_label(node), node.op_type, form, count, int(now), activations,
            count / (now + activations) if now + activations else 0.0,
            "compute" if slow else "memory",
            {name: machine.milliseconds(count, *what) for name, what in forms.items()},
            {name: _energy(count, *what) for name, what in forms.items()},
        ),
        weights,
    )  # fmt: skip


def _energy(count: int, is_float: bool, n_weights: float, n_activations: float) -> float:
    return microjoules(
        macs=count, is_float=is_float, weight_bytes=n_weights, activation_bytes=n_activations
    )


def _weight_bytes(sources: list[ir.Value]) -> dict[str, float]:
    """Return the bytes of weights as they are stored, in float, as int8, and packed."""
    found = dict.fromkeys(("now", *FORMS), 0.0)
    for source in sources:
        tensor = source.const_value
        values = array(source) if tensor is None or tensor.size <= MOST_WEIGHTS else None
        n = tensor.size if tensor is not None else 0 if values is None else values.size
        found["now"] += tensor_bytes(tensor) if tensor is not None else 0
        found["float"] += 4 * n
        found["int8"] += n
        found["packed"] += n if values is None else entropy_bytes(values)
    return found


def entropy_bytes(weight: npt.NDArray[Any]) -> float:
    """Return what an ideal coder of single values takes for a weight's integers.

    Real numbers are quantized first: int8, a scale for each slice along the first axis. A weight
    with NaN or infinity, which no scale fits, takes a byte for each value.
    """
    if not weight.size:
        return 0.0
    if weight.dtype.kind == "f":
        real = np.asarray(weight, np.float32)
        if not np.isfinite(real).all():
            return float(real.size)
        weight = quantize_weight(real, axis=0 if real.ndim > 1 else None)[0]
    counts = np.unique(weight.astype(np.int32), return_counts=True)[1]
    share = counts / weight.size
    return float(-weight.size * np.sum(share * np.log2(share)) / 8)


def _grids(typed: Model, known: Shapes, machine: Machine) -> Iterator[GridCost]:
    """Yield each Q and DQ of an activation between which and its neighbours nothing fuses."""
    for node in all_nodes(typed):
        if node.op_type not in GRIDS or not node.inputs or node.inputs[0] is None:
            continue
        if stored_weight(node.inputs[0]) is not None:
            continue
        beside = _float_neighbour(node)
        if beside is not None:
            moved = 5 * (size(known.get(node.outputs[0].name or "")) or 0)  # 1 byte and 4
            name = node.inputs[0].name if node.op_type == GRIDS[0] else node.outputs[0].name
            cost = machine.memory_ms(0, moved)
            yield GridCost(name or "", node.op_type, beside, moved, cost)


def _float_neighbour(node: ir.Node) -> str | None:
    """Return the float node that makes what a Q reads, or reads what a DQ gives."""
    if node.op_type == "QuantizeLinear":
        value = node.inputs[0]
        near = [] if value is None or value.producer() is None else [value.producer()]
    else:
        near = list(node.outputs[0].consumers())
    for other in near:
        if other is not None and other.op_type not in GRIDS and form_of(other).name == FLOAT:
            return node_label(other)
    return None


def _island(
    nodes: tuple[str, ...], layers: Mapping[str, LayerCost], grids: tuple[GridCost, ...]
) -> Island:
    inside = [layers[name] for name in nodes if name in layers]
    around = sum(grid.ms for grid in grids if grid.beside in nodes)
    return Island(
        nodes,
        sum(layer.macs for layer in inside),
        sum(layer.ms["now"] for layer in inside) + around,
        sum(layer.ms["int8"] for layer in inside),
    )
