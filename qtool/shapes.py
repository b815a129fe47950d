"""The shapes of a model's tensors, by ONNX shape inference on a copy without weights.

Shape legend: a dim is an int, or a str (a symbolic name), or None (unknown).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

from qtool.model import Dim, Model, array, constant, dim

Shape = tuple[Dim, ...]
Shapes = Mapping[str, Shape | None]

# fmt: off
SHAPE_OPS = {  # what exporters compute shapes and pads with
    "Add", "Cast", "Concat", "ConstantOfShape", "Div", "Gather", "Identity", "Mul", "Neg", "Range",
    "Reshape", "Shape", "Size", "Slice", "Squeeze", "Sub", "Transpose", "Unsqueeze",
}
# fmt: on
LARGE_BYTES = 1024  # ONNX's shape inference reads only small tensors, such as a Reshape's shape
STANDARD_FORMS: dict[str, tuple[str, tuple[int, ...]]] = {
    # com.microsoft operator -> the ONNX operator, and which of its inputs, with the same shapes
    "QuantizeLinear": ("QuantizeLinear", (0, 1, 2)),
    "DequantizeLinear": ("DequantizeLinear", (0, 1, 2)),
    "QLinearAdd": ("Add", (0, 3)),
    "QLinearMul": ("Mul", (0, 3)),
    "QLinearAveragePool": ("AveragePool", (0,)),
    "QLinearGlobalAveragePool": ("GlobalAveragePool", (0,)),
    "QLinearSigmoid": ("Identity", (0,)),
    "QLinearLeakyRelu": ("Identity", (0,)),
    "QLinearSoftmax": ("Identity", (0,)),
    "QLinearConcat": ("Concat", tuple(range(2, 3 * 64, 3))),
    "QGemm": ("Gemm", (0, 3)),
    "MatMulIntegerToFloat": ("MatMul", (0, 1)),
    "DynamicQuantizeMatMul": ("MatMul", (0, 1)),
    "FusedMatMul": ("MatMul", (0, 1)),
    "FusedGemm": ("Gemm", (0, 1)),
    "FusedConv": ("Conv", (0, 1)),
    "Gelu": ("Identity", (0,)),
    "FastGelu": ("Identity", (0,)),
    "BiasGelu": ("Identity", (0,)),
}


def infer_shapes(model: Model) -> Model:
    """Return a copy whose tensors carry the shapes and types that ONNX shape inference finds.

    What cannot be known stays as it was; large weights are not read. A model that inference
    refuses comes back as it is.
    """
    annotated = model.copy()
    try:
        proto = onnx.shape_inference.infer_shapes(
            ir.to_proto(_skeleton(annotated)), check_type=False, strict_mode=False, data_prop=True
        )
        inferred = ir.from_proto(proto)
    except Exception:  # it is only a help: a model without shapes is still a model
        return annotated
    for graph, found in zip(annotated.ir.graphs(), inferred.graphs(), strict=True):
        _merge(graph, found)
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


def tensor_shape(tensor: ir.TensorProtocol) -> tuple[int, ...]:
    """Return the dims of a constant."""
    return tuple(int(d) for d in tensor.shape.numpy())


def all_values(model: Model) -> Iterator[ir.Value]:
    """Yield every named tensor of the main graph and its subgraphs."""
    for graph in model.ir.graphs():
        yield from graph.inputs
        yield from (v for v in graph.initializers.values() if not v.is_graph_input())
        for node in graph:
            yield from node.outputs


def size(shape: Iterable[Dim] | None) -> int | None:
    """Return the number of elements, or None when a dim is unknown."""
    if shape is None:
        return None
    dims = list(shape)
    if not all(isinstance(d, int) and d >= 0 for d in dims):
        return None
    return math.prod(d for d in dims if isinstance(d, int))


def nbytes(shape: Iterable[Dim] | None, dtype: ir.DataType | None) -> int | None:
    """Return the bytes of a tensor, 4-bit elements packed in pairs; None when unknown."""
    count = size(shape)
    if count is None or dtype is None or dtype in (ir.DataType.STRING, ir.DataType.UNDEFINED):
        return None
    return -(-count * int(dtype.bitwidth) // 8)


def tensor_bytes(tensor: ir.TensorProtocol) -> int:
    """Return the bytes of a constant, 4-bit elements packed in pairs, without reading it."""
    packed = nbytes(tensor_shape(tensor), tensor.dtype)
    return int(tensor.nbytes) if packed is None else packed


def _skeleton(model: Model) -> ir.Model:
    """Return a copy for shape inference only: large tensors have a header and no content."""
    bare = model.copy().ir
    graphs = [*bare.graphs(), *(f.graph for f in bare.functions.values())]
    for graph in graphs:
        for value in graph.initializers.values():
            if value.const_value is not None:
                value.const_value = _header(value.const_value)
        for node in list(graph):
            tensor = node.attributes.get("value") if node.op_type == "Constant" else None
            if tensor is not None and tensor.type == ir.AttributeType.TENSOR:
                node.attributes["value"] = ir.AttrTensor("value", _header(tensor.value))
            _standardize(node)
            _fold(node)
    bare.opset_imports.setdefault("", 21)
    return bare


def _header(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    """Return a large tensor as a reference to a file that nobody opens."""
    if tensor.dtype == ir.DataType.STRING or tensor_bytes(tensor) <= LARGE_BYTES:
        return tensor
    shape = ir.Shape(tensor_shape(tensor))
    return ir.ExternalTensor(
        "weights", None, None, tensor.dtype, shape=shape, name=tensor.name or ""
    )


def _standardize(node: ir.Node) -> None:
    """Make a com.microsoft operator the ONNX one that gives its output the same shape."""
    if node.domain == "com.microsoft" and node.op_type in STANDARD_FORMS:
        op_type, picked = STANDARD_FORMS[node.op_type]
        inputs = [node.inputs[i] for i in picked if i < len(node.inputs)]
        node.domain, node.op_type = "", op_type
        node.resize_inputs(len(inputs))
        for i, value in enumerate(inputs):
            node.replace_input_with(i, value)
    if node.domain in ("", "ai.onnx"):
        for output in node.outputs:  # a shape in the file may be of another batch size
            output.shape = None


def _fold(node: ir.Node) -> None:
    """Make a Constant of a node that computes a small constant, such as the pads of a Pad.

    ONNX's own data propagation does not follow all of SHAPE_OPS.
    """
    if node.op_type not in SHAPE_OPS or node.domain not in ("", "ai.onnx") or not node.inputs:
        return
    inputs = [_small(value) for value in node.inputs]
    if any(x is None and v is not None for x, v in zip(inputs, node.inputs, strict=True)):
        return
    if node.op_type in ("ConstantOfShape", "Range"):  # a few bytes can ask for any amount
        asked = [abs(int(d)) for x in inputs if x is not None for d in x.ravel()]
        if len(asked) > 8 or math.prod(max(d, 1) for d in asked) > LARGE_BYTES:
            return
    result = _evaluate(node, inputs)
    if result is None or result.nbytes > LARGE_BYTES:
        return
    node.op_type = "Constant"
    node.resize_inputs(0)
    node.attributes.clear()
    node.attributes["value"] = ir.AttrTensor("value", ir.Tensor(result))


def _small(value: ir.Value | None) -> npt.NDArray[Any] | None:
    tensor = constant(value)
    if tensor is None or tensor.dtype == ir.DataType.STRING or tensor_bytes(tensor) > LARGE_BYTES:
        return None
    return array(value)


def _evaluate(node: ir.Node, inputs: list[npt.NDArray[Any] | None]) -> npt.NDArray[Any] | None:
    """Return what a node computes from constants, by ONNX's reference; None when it refuses."""
    from onnx.reference import ReferenceEvaluator

    opset = node.graph.opset_imports.get("", 21) if node.graph is not None else 21
    names = ["" if x is None else f"x{i}" for i, x in enumerate(inputs)]
    proto = ir.to_proto(node)
    del proto.input[:], proto.output[1:]
    proto.input.extend(names)
    graph = onnx.helper.make_graph([proto], "fold", [], [])
    graph.input.extend(onnx.ValueInfoProto(name=name) for name in names if name)
    graph.output.append(onnx.ValueInfoProto(name=proto.output[0]))
    imports = [onnx.OperatorSetIdProto(domain="", version=opset)]
    feeds = {name: x for name, x in zip(names, inputs, strict=True) if x is not None}
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            made = onnx.ModelProto(graph=graph, opset_import=imports, ir_version=10)
            return np.asarray(ReferenceEvaluator(made).run(None, feeds)[0])
        except Exception:  # left as it is: a broken node is for others to report
            return None


def _merge(graph: ir.Graph, inferred: ir.Graph) -> None:
    """Copy types and shapes; a dim that inference did not find keeps what the file says."""
    found = ir.convenience.create_value_mapping(inferred)
    for name, value in ir.convenience.create_value_mapping(graph).items():
        other = found.get(name)
        if other is None:
            continue
        if value.type is None:
            value.type = other.type
        if other.shape is None:
            continue
        old = value.shape
        if old is None or len(old) != len(other.shape):
            value.shape = ir.Shape(other.shape)
        else:
            value.shape = ir.Shape(
                [
                    new if isinstance(new, int) or dim(before) is None else before
                    for new, before in zip(other.shape, old, strict=True)
                ]
            )
