"""inspect: what is in a model. Weights are read only when their values are asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from qtool.errors import UsageError
from qtool.model import Dim, Json, Model, all_nodes, dtype_name, fingerprint
from qtool.quant.coverage import Coverage, coverage
from qtool.quant.encodings import TRIPLES, Encoding, encodings
from qtool.shapes import open_dims, shape_of, tensor_bytes, tensor_shape
from qtool.stages.storage import Storage, storage

MAX_BYTES = 1 << 24  # larger weights are not read to count their values
COUNTED_KINDS = "fiuV"  # of numpy: float, int, uint, and ml_dtypes' small types


@dataclass(frozen=True)
class Port:
    """An input or output of a model; dtype is None where the model does not say it."""

    name: str
    dtype: str | None
    shape: tuple[Dim, ...] | None

    def to_json(self) -> dict[str, Json]:
        """Return the port as a JSON object."""
        return {**vars(self), "shape": None if self.shape is None else list(self.shape)}


@dataclass(frozen=True)
class Weight:
    """A constant of a model. The values are counted when asked for, and not too many."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    n_bytes: int
    is_parameter: bool  # neither a shape nor a scale or zero point
    n_distinct: int | None = None
    zeros: float | None = None  # share of the elements, 0..1

    @property
    def n_elements(self) -> int:
        """The number of elements."""
        return int(np.prod(self.shape, dtype=object))

    def to_json(self) -> dict[str, Json]:
        """Return the weight as a JSON object."""
        return {**vars(self), "shape": list(self.shape)}


@dataclass(frozen=True)
class StatisticsSummary:
    """What calibration statistics a model carries."""

    source: str
    n_samples: int
    shards: tuple[str, ...]
    n_tensors: int
    n_grams: int
    of_this_model: bool  # the hash of the model that ran is this one's

    def to_json(self) -> dict[str, Json]:
        """Return the summary as a JSON object."""
        return {**vars(self), "shards": list(self.shards)}


@dataclass(frozen=True)
class Inspection:
    """What is in a model."""

    producer: str
    ir_version: int
    opsets: Mapping[str, int]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    ops: Mapping[str, int]  # with the nodes of subgraphs; "domain.Op" outside ONNX's own domain
    functions: tuple[str, ...]
    open_dims: tuple[str, ...]  # dims of the inputs that nobody set
    weights: tuple[Weight, ...]
    encodings: tuple[Encoding, ...]
    coverage: Coverage
    history: tuple[Mapping[str, Json], ...]
    preprocess: Mapping[str, Json] | None
    statistics: StatisticsSummary | None
    batch_norm: tuple[str, ...]  # tensors whose mean and deviation a folded BatchNormalization gave
    with_values: bool = False  # the values of the weights were counted
    storage: Storage | None = None  # of a packed file

    @property
    def n_parameters(self) -> int:
        """The number of elements of all weights and biases."""
        return sum(w.n_elements for w in self.weights if w.is_parameter)

    @property
    def weight_bytes(self) -> int:
        """The bytes of all constants."""
        return sum(w.n_bytes for w in self.weights)

    @property
    def macs(self) -> int | None:
        """The multiply-accumulates of one run; None when those of a node are unknown."""
        return None if self.coverage.n_unknown_macs else self.coverage.by_macs.total

    def by_dtype(self) -> dict[str, tuple[int, int, int]]:
        """Return {dtype: (constants, elements, bytes)}, the largest first."""
        sums: dict[str, tuple[int, int, int]] = {}
        for w in self.weights:
            n, elements, size = sums.get(w.dtype, (0, 0, 0))
            sums[w.dtype] = n + 1, elements + w.n_elements, size + w.n_bytes
        return dict(sorted(sums.items(), key=lambda item: (-item[1][2], item[0])))

    def to_json(self) -> dict[str, Json]:
        """Return the inspection as a JSON object."""
        names = ("constants", "elements", "bytes")
        return {
            "producer": self.producer,
            "ir_version": self.ir_version,
            "opsets": dict(self.opsets),
            "inputs": [port.to_json() for port in self.inputs],
            "outputs": [port.to_json() for port in self.outputs],
            "n_nodes": sum(self.ops.values()),
            "ops": dict(self.ops),
            "functions": list(self.functions),
            "macs": self.macs,
            "n_unknown_macs": self.coverage.n_unknown_macs,
            "open_dims": list(self.open_dims),
            "assumed_dim": self.coverage.assumed_dim,
            "n_parameters": self.n_parameters,
            "weight_bytes": self.weight_bytes,
            "dtypes": {d: dict(zip(names, n, strict=True)) for d, n in self.by_dtype().items()},
            "layers": [node.to_json() for node in self.coverage.nodes],
            "weights": [weight.to_json() for weight in self.weights],
            "encodings": [encoding.to_json() for encoding in self.encodings],
            "coverage": self.coverage.to_json(),
            "history": [dict(step) for step in self.history],
            "preprocess": None if self.preprocess is None else dict(self.preprocess),
            "statistics": None if self.statistics is None else self.statistics.to_json(),
            "batch_norm": list(self.batch_norm),
            "storage": None if self.storage is None else self.storage.to_json(),
        }


def inspect(
    model: Model, *, dims: Mapping[str, int] | None = None, values: bool = False
) -> Inspection:
    """Return what is in a model.

    dims sets symbolic dims of the inputs by name, for shapes and MACs: the batch is 1 by default.
    values also counts the distinct values and zeros of each weight of at most MAX_BYTES.

    Raises:
        UsageError: dims names a dim that no input has.
    """
    _check_dims(model, dims or {})
    graph = model.ir
    return Inspection(
        producer=" ".join(filter(None, (graph.producer_name, graph.producer_version))),
        ir_version=graph.ir_version,
        opsets={domain or "ai.onnx": n for domain, n in sorted(graph.opset_imports.items())},
        inputs=tuple(_port(v) for v in model.graph.inputs if not v.is_initializer()),
        outputs=tuple(_port(v) for v in model.graph.outputs),
        ops=dict(sorted(Counter(_op(node) for node in all_nodes(model)).items())),
        functions=tuple("::".join(filter(None, name)) for name in sorted(graph.functions)),
        open_dims=tuple(open_dims(model, dims)),
        weights=tuple(_weights(model, values)),
        encodings=encodings(model),
        coverage=coverage(model, dims=dims),
        history=tuple(step.to_json() for step in model.history),
        preprocess=model.preprocess,
        statistics=_statistics(model),
        batch_norm=tuple(sorted(model.batch_norm)),
        with_values=values,
        storage=storage(model),
    )


def _check_dims(model: Model, dims: Mapping[str, int]) -> None:
    known = {d: 1 for value in model.graph.inputs for d in shape_of(value) or () if d is not None}
    for name in dims:
        if name not in known:
            names = ", ".join(sorted(d for d in known if isinstance(d, str))) or "none has a name"
            raise UsageError(f"no input has a dim named {name!r}; dims with a name: {names}")


def _port(value: ir.Value) -> Port:
    dtype = None if value.dtype is None else dtype_name(value.dtype)
    return Port(value.name or "", dtype, shape_of(value))


def _op(node: ir.Node) -> str:
    return node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"


def _weights(model: Model, values: bool) -> Iterator[Weight]:
    for name, tensor, users in constants(model):
        is_parameter = tensor.dtype not in (
            ir.DataType.INT64,
            ir.DataType.BOOL,
            ir.DataType.STRING,
        ) and not (users and all(_is_qparam(node, index) for node, index in users))
        n_distinct, zeros = _count(tensor) if values else (None, None)
        yield Weight(
            name,
            dtype_name(tensor.dtype),
            tensor_shape(tensor),
            tensor_bytes(tensor),
            is_parameter,
            n_distinct,
            zeros,
        )


def constants(
    model: Model,
) -> Iterator[tuple[str, ir.TensorProtocol, list[tuple[ir.Node, int]]]]:
    """Yield the name, the tensor and the readers of each initializer and Constant."""
    graphs = [*model.ir.graphs(), *(f.graph for f in model.ir.functions.values())]
    for graph in graphs:
        for value in graph.initializers.values():
            if value.const_value is not None:
                yield value.name or "", value.const_value, list(value.uses())
        for node in graph:
            tensor = node.attributes.get("value") if node.op_type == "Constant" else None
            if tensor is not None and tensor.type == ir.AttributeType.TENSOR:
                yield node.outputs[0].name or "", tensor.value, list(node.outputs[0].uses())


def _is_qparam(node: ir.Node, index: int) -> bool:
    return any(index in triple[1:] for triple in TRIPLES.get(node.op_type, ()))


def _count(tensor: ir.TensorProtocol) -> tuple[int | None, float | None]:
    """Return the number of distinct values and the share of zeros."""
    if tensor_bytes(tensor) > MAX_BYTES or tensor.dtype == ir.DataType.STRING:
        return None, None
    values = plain(tensor.numpy())
    if values is None or not values.size:
        return None, None
    return int(np.unique(values).size), float(np.count_nonzero(values == 0) / values.size)


def plain(values: npt.NDArray[Any]) -> npt.NDArray[Any] | None:
    """Return numbers in a type that numpy itself can sort; None for strings and the like."""
    if values.dtype.kind not in COUNTED_KINDS:
        return None
    return values.astype(np.float32) if values.dtype.kind == "V" else values


def _statistics(model: Model) -> StatisticsSummary | None:
    known = model.statistics
    if known is None:
        return None
    return StatisticsSummary(
        known.source,
        known.n_samples,
        known.shards,
        len(known.tensors),
        len(known.grams),
        known.model == fingerprint(model),
    )
