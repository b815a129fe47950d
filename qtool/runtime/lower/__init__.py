"""Lowering: from an ONNX graph with known input shapes to a Program."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir as ir

from qtool.errors import UnsupportedError
from qtool.folding import evaluate
from qtool.model import Model, array, dtype_name, opset
from qtool.runtime.lower import (
    arena,
    elementwise,
    finish,
    indexing,
    linear,
    movement,
    normalization,
    padding,
    pooling,
    quantization,
    recurrent,
    reduction,
    resize,
    transposed,
    typed,
    wide_linear,
)
from qtool.runtime.lower.fuse import fuse
from qtool.runtime.lower.relocate import relocate
from qtool.runtime.lower.state import Lowering, Unreached
from qtool.runtime.lower.values import Dequantized, Held, Known, Value
from qtool.runtime.program import DTYPES, Array, Buffer, Program, Tensor

Lower = Callable[[Lowering, ir.Node], None]

LOWERINGS: dict[str, Lower] = {
    "QuantizeLinear": quantization.quantize_linear,
    "DequantizeLinear": quantization.dequantize_linear,
    "DynamicQuantizeLinear": quantization.dynamic_quantize_linear,
    "ConvInteger": wide_linear.conv_integer,
    "MatMulInteger": wide_linear.matmul_integer,
    "Conv": linear.conv,
    "ConvTranspose": transposed.conv_transpose,
    "Gemm": linear.gemm,
    "MatMul": linear.matmul,
    **dict.fromkeys(("LSTM", "GRU", "RNN"), recurrent.recurrent),
    "MaxPool": pooling.max_pool,
    "GlobalMaxPool": pooling.global_max_pool,
    "AveragePool": pooling.average_pool,
    "GlobalAveragePool": pooling.global_average_pool,
    "Softmax": normalization.softmax,
    "LogSoftmax": normalization.softmax,
    "LayerNormalization": normalization.layer_normalization,
    "InstanceNormalization": normalization.instance_normalization,
    "GroupNormalization": normalization.group_normalization,
    "BatchNormalization": normalization.batch_normalization,
    **dict.fromkeys(elementwise.BINARY, elementwise.binary),
    **dict.fromkeys(("Sum", "Mean"), elementwise.binary),
    **dict.fromkeys(elementwise.UNARY, elementwise.unary),
    "Not": typed.unary,
    **dict.fromkeys(("IsNaN", "IsInf"), typed.is_special),
    **dict.fromkeys((*typed.COMPARISONS, "Mod"), typed.binary),
    "Where": typed.where,
    "Cast": typed.cast,
    **dict.fromkeys(reduction.REDUCTIONS, reduction.reduce),
    **dict.fromkeys(("ReduceLogSum", "ReduceLogSumExp"), reduction.log_sum),
    **dict.fromkeys(("ArgMax", "ArgMin"), reduction.arg_extreme),
    "Gather": indexing.gather,
    **dict.fromkeys(("Resize", "Upsample"), resize.resize),
    **dict.fromkeys(
        ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Dropout"), movement.reshape
    ),
    "Transpose": movement.transpose,
    "Concat": movement.concat,
    "Slice": movement.slice_,
    "Split": movement.split,
    "Pad": padding.pad,
    "Expand": movement.expand,
    "Tile": movement.expand,
    "DepthToSpace": movement.depth_to_space,
    "SpaceToDepth": movement.space_to_depth,
}

#: Ops whose result has a shape that depends on values, so that these must be known.
SHAPED_BY_VALUES = ("Range", "ConstantOfShape", "OneHot", "NonZero", "EyeLike")

MOVES = ("Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity")


def lower(model: Model, shapes: Mapping[str, tuple[int, ...]]) -> Program:
    """Return the Program of a model whose inputs have these shapes.

    Raises:
        UnsupportedError: the runtime cannot run some of its nodes; all are named.
    """
    lowering = Lowering(opset(model))
    inputs = _feed(lowering, model, shapes)
    refused: list[str] = []
    for node in model.graph:
        if node in lowering.done:
            continue
        lowering.node = node.name or node.outputs[0].name or ""
        try:
            _lower_node(lowering, node)
        except Unreached:
            if node.op_type not in LOWERINGS:
                refused.append(f"{node.op_type} {lowering.node!r}: no such op")
        except UnsupportedError as error:
            refused.append(f"{node.op_type} {lowering.node!r}: {error}")
            _stand_in(lowering, node)
    if refused:
        listed = "; ".join(refused)
        raise UnsupportedError(f"the native runtime cannot run {len(refused)} nodes: {listed}")
    missing = [v.name for v in model.graph.outputs if v not in lowering.values]
    if missing:
        raise UnsupportedError(
            f"the native runtime does not compute {', '.join(map(str, missing))}"
        )
    outputs = finish.outputs(lowering, model.graph.outputs)
    ops = finish.needed(fuse(finish.needed(lowering.ops)))
    ops = relocate(ops)
    return Program(ops, inputs, outputs, arena.plan(ops))


def _feed(lowering: Lowering, model: Model, shapes: Mapping[str, tuple[int, ...]]) -> list[Tensor]:
    """Give the graph's inputs and initializers their values; return the tensors that are fed."""
    for value in model.graph.initializers.values():
        known = array(value)
        if known is not None:
            lowering.give(value, Known(known))
    made: list[Tensor] = []
    for value in model.graph.inputs:
        if value.name in model.graph.initializers:
            lowering.give(value, Known(_default(value)))
            continue
        spec = next(s for s in model.inputs() if s.name == value.name)
        if 0 in shapes[spec.name]:
            raise UnsupportedError(f"input {spec.name!r} has no elements: {shapes[spec.name]}")
        tensor = lowering.make(spec.dtype, shapes[spec.name])
        tensor.buffer = Buffer("input", tensor.buffer.n_bytes, offset=len(made))
        lowering.give(value, Held(tensor))
        made.append(tensor)
    return made


def _stand_in(lowering: Lowering, node: ir.Node) -> None:
    """Give what a refused node makes its inferred shape, so that those after it are looked at."""
    for value in node.outputs:
        dims = None if value.shape is None else value.shape.dims
        known = dims is not None and all(isinstance(d, int) and d > 0 for d in dims)
        name = None if value.dtype is None else dtype_name(value.dtype)
        if dims is not None and known and name in DTYPES:
            shape = [d for d in dims if isinstance(d, int)]
            lowering.give(value, Held(lowering.make(name, shape)))


def _default(value: ir.Value) -> Array:
    assert value.const_value is not None
    return value.const_value.numpy()


def _lower_node(lowering: Lowering, node: ir.Node) -> None:
    if node.op_type == "Constant":
        known = array(node.outputs[0])
        if known is None:
            raise UnsupportedError("it is sparse or holds no tensor")
        lowering.give(node.outputs[0], Known(known))
        return
    if node.op_type in ("Shape", "Size") and not node.domain:
        lowering.give(node.outputs[0], Known(_dims(lowering, node)))
        return
    if node.domain in ("", "ai.onnx") and _fold(lowering, node):
        return
    lower = LOWERINGS.get(node.op_type) if node.domain in ("", "ai.onnx") else None
    if lower is None:
        computed = node.op_type in SHAPED_BY_VALUES
        raise UnsupportedError("its values are computed at run time" if computed else "no such op")
    lower(lowering, node)


def _fold(lowering: Lowering, node: ir.Node) -> bool:
    """Compute a node whose inputs are all known."""
    if node.op_type in ("QuantizeLinear", "DequantizeLinear") or not node.inputs:
        return False
    values = [None if v is None else lowering.value(v) for v in node.inputs]
    if not all(v is None or _is_constant(v) for v in values):
        return False
    if node.op_type in MOVES and any(isinstance(v, Dequantized) for v in values):
        return False  # a weight that shall stay integers
    known = [None if v is None else lowering.known(v) for v in node.inputs]
    results = evaluate(node, known, lowering.opset)
    if results is None:
        raise UnsupportedError("its inputs are constant, and ONNX's reference refuses them")
    for value, result in zip(node.outputs, results, strict=True):
        lowering.give(value, Known(np.ascontiguousarray(result)))
    return True


def _is_constant(value: Value) -> bool:
    return isinstance(value.q if isinstance(value, Dequantized) else value, Known)


def _dims(lowering: Lowering, node: ir.Node) -> Array:
    shape = lowering.shape(node.inputs[0])
    if node.op_type == "Size":
        return np.array(np.prod(shape), np.int64)
    start = node.attributes["start"].value if "start" in node.attributes else 0
    end = node.attributes["end"].value if "end" in node.attributes else None
    return np.array(shape[start:end], np.int64)
