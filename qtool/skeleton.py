"""What shape inference gets to see of a model: its graph with no large weight in it.

onnx's C++ inference runs in this process, so what is known to abort it is kept from it.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from qtool.folding import evaluate
from qtool.model import Model, array, constant
from qtool.sizes import tensor_bytes, tensor_shape

# fmt: off
SHAPE_OPS = {  # what exporters compute shapes and pads with
    "Add", "Cast", "Concat", "ConstantOfShape", "Div", "Gather", "Identity", "Mul", "Neg", "Range",
    "Reshape", "Shape", "Size", "Slice", "Squeeze", "Sub", "Transpose", "Unsqueeze",
}
SIZING_OPS = {  # whose output can get a negative dim, in a broken model
    "AveragePool", "CenterCropPad", "Col2Im", "ConstantOfShape", "Conv", "ConvInteger",
    "ConvTranspose", "DeformConv", "Expand", "EyeLike", "LpPool", "MaxPool", "MaxRoiPool",
    "MaxUnpool", "OneHot", "Pad", "QLinearConv", "Range", "Resize", "RoiAlign", "STFT",
    "SpaceToDepth", "Split", "Tile", "TopK", "Upsample",
}
# fmt: on
MAX_LEVELS = 32
MAX_RANGE = 1 << 20  # elements of a Range that shape inference may see
LARGE_BYTES = 1024  # ONNX's shape inference reads only small tensors, such as a Reshape's shape
OPAQUE = "qtool.opaque"  # domain of what shape inference is to leave alone
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


def skeleton(model: Model) -> ir.Model:
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
            _fold(node)
            _standardize(node)
    bare.opset_imports.setdefault("", 21)
    for imports in (bare.opset_imports, *(f.opset_imports for f in bare.functions.values())):
        imports[OPAQUE] = 1
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
        asked = _elements(node.op_type, inputs)
        if asked > MAX_RANGE and node.op_type == "Range":
            node.domain = OPAQUE  # ONNX's data propagation would make it
        if asked > LARGE_BYTES:
            return
    opset = node.graph.opset_imports.get("", 21) if node.graph is not None else 21
    results = evaluate(node, inputs, opset)
    if not results or results[0].nbytes > LARGE_BYTES:
        return
    node.op_type = "Constant"
    node.resize_inputs(0)
    node.attributes.clear()
    node.attributes["value"] = ir.AttrTensor("value", ir.Tensor(results[0]))


def _elements(op_type: str, inputs: list[npt.NDArray[Any] | None]) -> float:
    """Return how many elements a Range or ConstantOfShape makes, or more; inf for a broken one."""
    known = [np.asarray(x, np.float64).ravel() for x in inputs if x is not None]
    if op_type == "ConstantOfShape":
        dims = [abs(float(d)) for x in known for d in x]
        return math.inf if len(dims) > 8 else math.prod(max(d, 1.0) for d in dims)
    if [x.size for x in known] != [1, 1, 1]:
        return math.inf
    start, limit, delta = (float(x[0]) for x in known)
    asked = abs(limit - start) / abs(delta) if delta else math.inf
    return math.inf if math.isnan(asked) else asked


def _small(value: ir.Value | None) -> npt.NDArray[Any] | None:
    tensor = constant(value)
    if tensor is None or tensor.dtype == ir.DataType.STRING or tensor_bytes(tensor) > LARGE_BYTES:
        return None
    return array(value)


def slice_levels(bare: ir.Model) -> list[list[ir.Node]]:
    """Hide every Slice of a skeleton; return those that may be shown again, by level.

    onnx 1.23 aborts the process when a Slice meets a negative dim, or 0 with a negative step.
    What a Slice of one level reads is inferred once those of the levels before are shown: then
    show() tells. Of a Slice with a negative step the output stays unknown.
    """
    for function in bare.functions.values():
        for node in function.graph:
            node.domain = OPAQUE if node.op_type == "Slice" else node.domain
    levels: dict[int, list[ir.Node]] = {}
    states: dict[ir.Value, tuple[int, bool]] = {}  # the level, and whether a Slice came since
    deepest = 0
    for node in ir.traversal.RecursiveGraphIterator(bare.graph):
        known = [states.get(value, (0, False)) for value in node.inputs if value is not None]
        level, sliced = max(known, default=(0, False))
        if any(attr.type == ir.AttributeType.GRAPH for attr in node.attributes.values()):
            level, sliced = deepest, True
        if sliced and node.op_type in SIZING_OPS:
            level, sliced = level + 1, False
        if node.op_type == "Slice" and node.domain in ("", "ai.onnx"):
            node.domain, sliced = OPAQUE, True
            if not _steps_back(node):
                levels.setdefault(level, []).append(node)
        states.update(dict.fromkeys(node.outputs, (level, sliced)))
        deepest = max(deepest, level)
    return [levels[level] for level in sorted(levels)][:MAX_LEVELS]


def show(node: ir.Node, shape: ir.Shape | None) -> None:
    """Let inference see a Slice whose input has this shape, unless that has a negative dim."""
    if shape is None or not any(isinstance(d, int) and d < 0 for d in shape):
        node.domain = ""


def _steps_back(node: ir.Node) -> bool:
    steps = _small(node.inputs[4]) if len(node.inputs) > 4 else None
    return steps is not None and bool(np.min(steps, initial=0) < 0)
