"""Multiplications and additions of constants become part of the linear op beside them."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from qtool.model import BatchNormStatistics
from qtool.passes.affine import AFFINE, Affine, affine_of, input_of
from qtool.passes.linear import linear_of
from qtool.passes.remove_identities import shape_dims
from qtool.passes.rewriting import Editor, only_reader, rewrites

SMALLEST_K = 1e-6  # b / k would be out of proportion


@rewrites(*AFFINE)
def fold_affine(node: ir.Node, editor: Editor) -> bool:
    """Fold y = k * x + b, per channel, into the Conv, ConvTranspose, Gemm or MatMul beside it.

    After the linear op:   k * (W x + c) + b = (k W) x + (k c + b)
    Before it:             W (k x + b) + c = (W k) x + (W b + c)

    k = gamma / sqrt(var + epsilon) and b = beta - k * mean for a BatchNormalization. Before an op
    that pads with zeros, b must be 0. A weight with several readers never changes. Where a MatMul
    of rank 2 needs a bias, it becomes a Gemm; of another rank, the Add stays behind it.
    """
    return any(fold(node, editor) for fold in (_after, _before, _through_add, _past_add))


def _after(node: ir.Node, editor: Editor) -> bool:
    x = input_of(node)
    linear = linear_of(x.producer()) if x is not None else None
    if x is None or linear is None or linear.node.graph is not node.graph:
        return False
    affine = affine_of(node, linear.rank, linear.axis, linear.n_outputs)
    bias = linear.bias()
    if affine is None or bias is None or only_reader(x) is not node:
        return False
    if (affine.scales and not linear.owns_weight) or (affine.shifts and not linear.takes_bias):
        return False
    if affine.scales:
        linear.scale(affine.k, editor, outputs=True)
    shifted = affine.k * bias + affine.b
    statistics = _statistics(affine, editor.batch_norm.get(x.name or ""))
    editor.absorb(node, x)
    if affine.shifts or np.any(shifted != bias):
        linear.set_bias(shifted, editor)
    if statistics is not None and x.name:
        editor.batch_norm[x.name] = statistics
    return True


def _statistics(affine: Affine, before: BatchNormStatistics | None) -> BatchNormStatistics | None:
    """Return the mean and deviation of y, from those of x where y has none of its own."""
    if affine.statistics is not None or before is None:
        return affine.statistics
    mean, std = affine.k * before.mean + affine.b, np.abs(affine.k) * before.std
    return BatchNormStatistics(mean.astype(np.float32), std.astype(np.float32))


def _before(node: ir.Node, editor: Editor) -> bool:
    y = node.outputs[0]
    reader = only_reader(y)
    linear = linear_of(reader)
    if linear is None or linear.node.graph is not node.graph or linear.node.inputs[0] is not y:
        return False
    affine = affine_of(node, linear.rank, linear.axis, linear.n_inputs)
    if affine is None or not _keeps_channels(affine, linear.rank, linear.axis, linear.n_inputs):
        return False
    if affine.scales and not linear.owns_weight:
        return False
    bias = linear.bias()
    if affine.shifts:
        if linear.pads_with_zeros or not linear.takes_bias or bias is None:
            return False
        linear.set_bias(bias + linear.applied(affine.b), editor)
    if affine.scales:
        linear.scale(affine.k, editor, outputs=False)
    editor.batch_norm.pop(y.name or "", None)
    return editor.bypass(node, affine.x)


def _keeps_channels(affine: Affine, n_dims: int | None, axis: int, channels: int) -> bool:
    """Tell whether x has the shape of y: the constant does not widen it."""
    shape = shape_dims(affine.x)
    return shape is not None and len(shape) == n_dims and shape[axis] == channels


def _through_add(node: ir.Node, editor: Editor) -> bool:
    """Fold the k of k * (W x + c) into a MatMul and into the Add behind it, which stays."""
    y = input_of(node)
    add = y.producer() if y is not None else None
    if y is None or add is None or add.op_type != "Add" or only_reader(y) is not node:
        return False
    x = input_of(add)
    linear = linear_of(x.producer()) if x is not None else None
    if x is None or linear is None or only_reader(x) is not add or not linear.owns_weight:
        return False
    if linear.node.op_type != "MatMul" or linear.node.graph is not node.graph:
        return False
    affine = affine_of(node, linear.rank, linear.axis, linear.n_outputs)
    bias = affine_of(add, linear.rank, linear.axis, linear.n_outputs)
    if affine is None or bias is None or affine.shifts:
        return False
    linear.scale(affine.k, editor, outputs=True)
    index = 1 if add.inputs[0] is x else 0
    dtype = linear.weight.dtype
    values = ir.Tensor((bias.b * affine.k).astype(dtype.numpy()), dtype=dtype)
    editor.set_constant(add, index, f"{node.outputs[0].name}_bias", values)
    editor.absorb(node, y)
    return True


def _past_add(node: ir.Node, editor: Editor) -> bool:
    """Fold the k of W (k x + b) into W, where b cannot be: (W k) (x + b / k)."""
    y = node.outputs[0]
    add = only_reader(y)
    if node.op_type not in ("Mul", "Div") or add is None or add.op_type != "Add":
        return False
    linear = linear_of(only_reader(add.outputs[0]))
    if linear is None or not linear.owns_weight or linear.node.inputs[0] is not add.outputs[0]:
        return False
    if not node.graph is add.graph is linear.node.graph:
        return False
    at = (linear.rank, linear.axis, linear.n_inputs)
    affine, shift = affine_of(node, *at), affine_of(add, *at)
    if affine is None or shift is None or shift.x is not y or np.abs(affine.k).min() < SMALLEST_K:
        return False
    if not _keeps_channels(affine, *at):
        return False
    linear.scale(affine.k, editor, outputs=False)
    index = 1 if add.inputs[0] is y else 0
    trailing = 0 if linear.axis == -1 else (linear.rank or 2) - 2
    values = (shift.b / affine.k).reshape(-1, *[1] * trailing)
    dtype = linear.weight.dtype
    tensor = ir.Tensor(values.astype(dtype.numpy()), dtype=dtype)
    editor.set_constant(add, index, f"{add.outputs[0].name}_bias", tensor)
    editor.batch_norm.pop(y.name or "", None)
    editor.batch_norm.pop(add.outputs[0].name or "", None)
    return editor.bypass(node, affine.x)
