"""The shapes of a model's tensors, by ONNX shape inference on a copy without weights.

Shape legend: a dim is an int, or a str (a symbolic name), or None (unknown).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

import onnx
import onnx_ir as ir

from qtool.model import Dim, Model, dim
from qtool.sizes import nbytes, size, tensor_bytes, tensor_shape
from qtool.skeleton import show, skeleton, slice_levels

__all__ = [
    "all_values",
    "infer_shapes",
    "named_shapes",
    "nbytes",
    "open_dims",
    "shape_of",
    "shapes",
    "size",
    "tensor_bytes",
    "tensor_shape",
    "with_shapes",
]

Shape = tuple[Dim, ...]
Shapes = Mapping[str, Shape | None]


def infer_shapes(model: Model) -> Model:
    """Return a copy whose tensors carry the shapes and types that ONNX shape inference finds.

    What cannot be known stays as it was; large weights are not read. A model that inference
    refuses comes back as it is.
    """
    annotated = model.copy()
    try:
        inferred = _inferred(skeleton(annotated))
    except Exception:  # it is only a help: a model without shapes is still a model
        return annotated
    dims_of_inputs = (d for v in annotated.graph.inputs if v.shape for d in map(dim, v.shape))
    declared = {d for d in dims_of_inputs if isinstance(d, str)}
    for graph, found in zip(annotated.ir.graphs(), inferred.graphs(), strict=True):
        _merge(graph, found, declared)
    return annotated


def with_shapes(
    model: Model, dims: Mapping[str, int] | None = None, *, assume: int | None = None
) -> Model:
    """Return a copy with the symbolic dims of the inputs set, and the shapes that follow.

    dims gives their sizes by name. A first dim of an input that it does not name is the batch: 1.
    assume is the size of all other dims that nobody set.
    """
    prepared = model.copy()
    sizes = {**_batch_dims(model), **(dims or {})}
    for value in prepared.graph.inputs:
        if value.shape is not None and not value.is_initializer():
            known = [_set_dim(d, i, sizes, assume) for i, d in enumerate(map(dim, value.shape))]
            value.shape = ir.Shape(known)
    return infer_shapes(prepared)


def shapes(
    model: Model, dims: Mapping[str, int] | None = None, *, assume: int | None = None
) -> dict[str, Shape | None]:
    """Return the shape of every tensor by name, as with_shapes() finds them.

    A dim that is not known, or depends on the data, is a name or None.
    """
    return named_shapes(with_shapes(model, dims, assume=assume))


def named_shapes(model: Model) -> dict[str, Shape | None]:
    """Return the shapes that the tensors of a model carry, by name."""
    found: dict[str, Shape | None] = {}
    for value in all_values(model):
        if value.name:
            shape = shape_of(value)
            # branches of one If may use a name twice, with different shapes
            found[value.name] = shape if found.get(value.name, shape) == shape else None
    return found


def open_dims(model: Model, dims: Mapping[str, int] | None = None) -> list[str]:
    """Return the dims of the inputs that shapes() cannot know, as NAME or INPUT[AXIS]."""
    sizes = {**_batch_dims(model), **(dims or {})}
    found = []
    for value in model.graph.inputs:
        for axis, d in enumerate(map(dim, value.shape or ())):
            left = _set_dim(d, axis, sizes, None)
            if not isinstance(left, int):
                found.append(left or f"{value.name}[{axis}]")
    return list(dict.fromkeys(found))


def _set_dim(d: Dim, axis: int, sizes: Mapping[str, int], assume: int | None) -> Dim:
    known = sizes.get(d, assume or d) if isinstance(d, str) else d
    return known if known is not None else 1 if axis == 0 else assume


def _batch_dims(model: Model) -> dict[str, int]:
    """Return {name: 1} for the symbolic first dims of the inputs."""
    first = [value.shape[0] for value in model.graph.inputs if value.shape]
    return {str(d): 1 for d in map(dim, first) if isinstance(d, str)}


def shape_of(value: ir.Value) -> Shape | None:
    """Return the dims of a value, or None when not even the rank is known."""
    if value.const_value is not None:
        return tensor_shape(value.const_value)
    return None if value.shape is None else tuple(map(dim, value.shape))


def all_values(model: Model) -> Iterator[ir.Value]:
    """Yield every named tensor of the main graph and its subgraphs."""
    for graph in model.ir.graphs():
        yield from graph.inputs
        yield from (v for v in graph.initializers.values() if not v.is_graph_input())
        for node in graph:
            yield from node.outputs


def _inferred(bare: ir.Model) -> ir.Model:
    """Return a skeleton with its shapes, found in as many passes as it has levels of Slice."""
    levels = slice_levels(bare)
    found = _pass(bare)
    for level in levels:
        known = ir.convenience.create_value_mapping(found.graph)
        for graph in found.graph.subgraphs():
            known |= ir.convenience.create_value_mapping(graph)
        for node in level:
            source = known.get(node.inputs[0].name or "") if node.inputs[0] is not None else None
            show(node, None if source is None else source.shape)
        found = _pass(bare)
    return found


def _pass(bare: ir.Model) -> ir.Model:
    proto = onnx.shape_inference.infer_shapes(
        ir.to_proto(bare), check_type=False, strict_mode=False, data_prop=True
    )
    made: ir.Model = ir.from_proto(proto)
    return made


def _merge(graph: ir.Graph, inferred: ir.Graph, declared: Collection[str]) -> None:
    """Copy types and shapes; a dim that inference did not find keeps what the file says.

    Of the names of dims, only those that inputs declare are copied. Inference makes up others,
    not the same ones in each run, and onnxruntime takes dims of one name to be equal.
    """
    found = ir.convenience.create_value_mapping(inferred)
    for name, value in ir.convenience.create_value_mapping(graph).items():
        other = found.get(name)
        if other is None:
            continue
        if value.type is None:
            value.type = other.type
        if other.shape is None:
            continue
        new = [d if isinstance(d, int) or d in declared else None for d in map(dim, other.shape)]
        old = [None] * len(new) if value.shape is None else [dim(d) for d in value.shape]
        if len(old) != len(new):
            old = [None] * len(new)
        value.shape = ir.Shape([b if a is None else a for a, b in zip(new, old, strict=True)])
