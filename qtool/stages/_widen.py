"""Weights of 4 bits as int8, which onnxruntime multiplies as integers."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from qtool.model import add_initializer, array, attribute, constant
from qtool.quant.rewrite import ShortNames

FOURS = (ir.DataType.INT4, ir.DataType.UINT4)


def widen(graph: ir.Graph) -> None:
    """Replace constants of 4 bits less their zero point by int8, where they are not blocked."""
    names = ShortNames(graph)
    for node in graph:
        if node.op_type != "DequantizeLinear" or attribute(node, "block_size", 0):
            continue
        tensor, scale = constant(node.inputs[0]), array(node.inputs[1])
        if tensor is None or tensor.dtype not in FOURS or scale is None:
            continue
        zero = array(node.inputs[2]) if len(node.inputs) > 2 else None
        q = tensor.numpy().astype(np.int8)
        if zero is not None:
            along = [1] * q.ndim
            along[attribute(node, "axis", 1) if zero.ndim else 0] = -1
            q = q - zero.astype(np.int8).reshape(along if zero.ndim else ())
            node.resize_inputs(2)
        node.replace_input_with(0, add_initializer(graph, names.short("wide"), q))
