"""Model: a graph and what qtool knows about it; and small helpers over onnx_ir graphs.

Shape legend: a dim is an int, or a str (a symbolic name), or None (unknown).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from onnx_ir import Graph  # in Model, `ir` is a field

from qtool.errors import ModelError

Json = Any  # what json.loads returns
Dim = int | str | None


@dataclass(frozen=True)
class TensorSpec:
    """An input or output of a model: numpy dtype name ("float32", ...) and dims."""

    name: str
    dtype: str
    shape: tuple[Dim, ...] | None  # None where the rank is unknown

    def __str__(self) -> str:
        dims = (
            "?"
            if self.shape is None
            else ",".join("?" if d is None else str(d) for d in self.shape)
        )
        return f"{self.name}: {self.dtype}[{dims}]"


@dataclass(frozen=True)
class Step:
    """One stage of a model's history: what to type to do it again, and what that decided."""

    command: str
    options: Mapping[str, Json] = field(default_factory=dict)
    version: str = ""
    decided: Mapping[str, Json] = field(default_factory=dict)  # where options left the choice

    def to_json(self) -> dict[str, Json]:
        """Return the step as a JSON object."""
        decided = {"decided": dict(self.decided)} if self.decided else {}
        said = {"command": self.command, "options": dict(self.options), "version": self.version}
        return {**said, **decided}


@dataclass(frozen=True)
class TensorStatistics:
    """What one pass over the sample data says about one tensor.

    minimum and maximum are exact float32 values. counts[i] is the number of finite elements x
    with (first + i) * 2**exponent <= x < (first + i + 1) * 2**exponent, int64; first and last
    count are not 0 (counts is empty when count is 0). count is the sum of counts; n_zeros of
    them are exactly 0.
    """

    minimum: float
    maximum: float
    count: int
    n_zeros: int
    exponent: int
    first: int
    counts: npt.NDArray[np.int64]


@dataclass(frozen=True)
class GramStatistics:
    """H = sum over samples of x x^T of the input of one weighted layer, x augmented with 1.

    values holds the upper triangle of the (groups, K + 1, K + 1) sums as 128-bit fixed-point
    integers (two's complement, unit 2**-exponent), so that shards add exactly: uint64 pairs of
    shape (groups, (K + 1) * (K + 2) / 2, 2), low word first. count is the number of x summed.
    """

    count: int
    groups: int
    size: int  # K + 1
    exponent: int
    values: npt.NDArray[np.uint64]


@dataclass(frozen=True)
class BatchNormStatistics:
    """Mean and standard deviation per channel of a tensor, known from a folded BatchNormalization.

    Both float32 of shape (C,), along axis 1 of the tensor.
    """

    mean: npt.NDArray[np.float32]
    std: npt.NDArray[np.float32]


@dataclass(frozen=True)
class Statistics:
    """Calibration statistics: tensors by tensor name, grams by the first output of their node."""

    model: str  # fingerprint() of the model that ran
    source: str  # "samples", "random" or "synthetic"
    n_samples: int
    shards: tuple[str, ...] = ()  # ("2/8",) for a part; () when complete
    tensors: Mapping[str, TensorStatistics] = field(default_factory=dict)
    grams: Mapping[str, GramStatistics] = field(default_factory=dict)


@dataclass(frozen=True)
class Model:
    """A graph, and what qtool knows about it. Stages return new ones and never edit theirs."""

    ir: ir.Model
    statistics: Statistics | None = None
    batch_norm: Mapping[str, BatchNormStatistics] = field(default_factory=dict)
    preprocess: Mapping[str, Json] | None = None  # what qtool.data.preprocess reads
    history: tuple[Step, ...] = ()
    source: str | None = None  # sha256 of the .onnx file that the history began with

    @property
    def graph(self) -> Graph:
        """The main graph."""
        return self.ir.graph

    def copy(self) -> Model:
        """Return a model whose graph can be edited; the weight arrays are shared."""
        return replace(self, ir=self.ir.clone())

    def then(
        self,
        command: str,
        options: Mapping[str, Json],
        *,
        decided: Mapping[str, Json] | None = None,
        **changes: Any,
    ) -> Model:
        """Return the model with changes made by a stage, which history then ends with."""
        from qtool import __version__

        step = Step(command, dict(options), __version__, dict(decided or {}))
        return replace(self, history=(*self.history, step), **changes)

    def inputs(self) -> list[TensorSpec]:
        """Return what must be fed: the graph inputs that no initializer gives a default."""
        initializers = self.graph.initializers
        return [spec(value) for value in self.graph.inputs if value.name not in initializers]

    def outputs(self) -> list[TensorSpec]:
        """Return what the model computes."""
        return [spec(value) for value in self.graph.outputs]


def spec(value: ir.Value) -> TensorSpec:
    """Return the name, dtype and dims of a value.

    Raises:
        ModelError: the value has no tensor type.
    """
    if value.name is None or value.dtype in (None, ir.DataType.UNDEFINED):
        raise ModelError(
            f"tensor {value.name!r} has no element type; run shape inference on the model"
        )
    shape = None if value.shape is None else tuple(dim(d) for d in value.shape)
    dtype = dtype_name(value.dtype)
    if isinstance(value.type, ir.SequenceType | ir.OptionalType):
        kind = "a sequence" if isinstance(value.type, ir.SequenceType) else "an optional"
        dtype = f"{kind} of {dtype}"
    return TensorSpec(value.name, dtype, shape)


def dim(d: int | ir.SymbolicDim) -> Dim:
    """Return a dim of an onnx_ir shape as an int, a name or None."""
    return d if isinstance(d, int) else d.value


def dtype_name(dtype: ir.DataType) -> str:
    """Return the numpy name of an ONNX element type, such as "float32" or "int4"."""
    if dtype in (ir.DataType.STRING, ir.DataType.UNDEFINED):
        return "str" if dtype == ir.DataType.STRING else "undefined"
    return str(dtype.numpy())


def constant(value: ir.Value | None) -> ir.TensorProtocol | None:
    """Return the tensor of an initializer or of a Constant node's output; None for anything else.

    An initializer that is also a graph input is only a default, and so not constant.

    Raises:
        ModelError: a Constant node has not just one known attribute and one output.
    """
    if value is None:
        return None
    if value.is_initializer():
        return None if value.is_graph_input() else value.const_value
    try:
        return ir.convenience.get_const_tensor(value)
    except ValueError as error:
        raise ModelError(f"the Constant that makes {value.name!r} is malformed: {error}") from error


def array(value: ir.Value | None) -> npt.NDArray[Any] | None:
    """Return constant(value) as a numpy array, or None."""
    tensor = constant(value)
    return None if tensor is None else tensor.numpy()


def attribute(node: ir.Node, name: str, default: Any = None) -> Any:
    """Return the value of an attribute of a node, or the default."""
    found = node.attributes.get(name)
    return default if found is None else found.value


def all_nodes(model: Model) -> Iterator[ir.Node]:
    """Yield every node of the main graph and its subgraphs, in order."""
    yield from ir.traversal.RecursiveGraphIterator(model.graph)


def unique_name(graph: ir.Graph, wanted: str) -> str:
    """Return wanted, or wanted with the first number that makes it new among the values.

    Cost: one walk of the graph; when adding many, keep a Names.
    """
    return Names(graph)(wanted)


class Names:
    """Makes names that no value or node of a graph (nor of its subgraphs) has yet."""

    def __init__(self, graph: ir.Graph) -> None:
        self._taken: set[str | None] = {value.name for value in graph.inputs}
        self._taken |= set(graph.initializers)
        for node in ir.traversal.RecursiveGraphIterator(graph):
            self._taken.add(node.name)
            self._taken |= {value.name for value in node.outputs}
        for subgraph in graph.subgraphs():
            self._taken |= set(subgraph.initializers) | {value.name for value in subgraph.inputs}

    def __call__(self, wanted: str) -> str:
        """Return wanted, or wanted with the first number that makes it new; it is then taken."""
        name, number = wanted, 1
        while name in self._taken:
            name, number = f"{wanted}_{number}", number + 1
        self._taken.add(name)
        return name


def add_initializer(
    graph: ir.Graph, name: str, values: npt.NDArray[Any] | ir.TensorProtocol
) -> ir.Value:
    """Add a constant to the graph and return its value; name must be new."""
    tensor = ir.Tensor(values, name=name) if isinstance(values, np.ndarray) else values
    value = ir.Value(
        name=name,
        shape=ir.Shape(tensor.shape.numpy()),
        type=ir.TensorType(tensor.dtype),
        const_value=tensor,
    )
    graph.register_initializer(value)
    return value


def opset(model: Model) -> int:
    """Return the version of the default ONNX domain that the model uses."""
    imports = model.ir.opset_imports
    return imports.get("", imports.get("ai.onnx", 0))


def fingerprint(model: Model) -> str:
    """Return a sha256 of what the model computes: nodes, inputs, outputs and every weight.

    Independent of the file format, doc strings, metadata, and value annotations.
    """
    digest = hashlib.sha256()
    for domain, version in sorted(model.ir.opset_imports.items()):
        digest.update(f"opset {domain} {version}\n".encode())
    _update(digest, model.graph)
    for identifier, function in sorted(model.ir.functions.items()):
        digest.update(f"function {identifier}\n".encode())
        _update(digest, function.graph)
    return digest.hexdigest()


def _update(digest: Any, graph: ir.Graph) -> None:
    for kind, values in (("in", graph.inputs), ("out", graph.outputs)):
        for value in values:
            dims = "" if value.shape is None else ",".join(str(dim(d)) for d in value.shape)
            digest.update(f"{kind} {value.name} {value.dtype} {dims}\n".encode())
    for name in sorted(graph.initializers):
        _update_tensor(digest, name, graph.initializers[name].const_value)
    for node in graph:
        names = [
            [v.name if v is not None else "" for v in vs] for vs in (node.inputs, node.outputs)
        ]
        digest.update(f"node {node.domain} {node.op_type} {node.overload} {names}\n".encode())
        for key in sorted(node.attributes):
            _update_attribute(digest, key, node.attributes[key])


def _update_attribute(digest: Any, key: str, attr: ir.Attr) -> None:
    if attr.type == ir.AttributeType.GRAPH:
        digest.update(f"graph {key}\n".encode())
        _update(digest, attr.value)
    elif attr.type == ir.AttributeType.GRAPHS:
        for graph in attr.value:
            digest.update(f"graph {key}\n".encode())
            _update(digest, graph)
    elif attr.type == ir.AttributeType.TENSOR:
        _update_tensor(digest, key, attr.value)
    elif attr.type == ir.AttributeType.TENSORS:
        for tensor in attr.value:
            _update_tensor(digest, key, tensor)
    else:
        digest.update(f"attr {key} {attr.type} {attr.ref_attr_name or attr.value!r}\n".encode())


def _update_tensor(digest: Any, name: str, tensor: ir.TensorProtocol | None) -> None:
    if tensor is None:
        return
    digest.update(f"tensor {name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
    if tensor.dtype == ir.DataType.STRING:
        digest.update(repr(list(tensor.numpy().ravel())).encode())
    else:
        digest.update(tensor.tobytes())
