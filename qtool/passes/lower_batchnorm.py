"""A BatchNormalization that no linear op could take in becomes one itself."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from qtool.passes.affine import affine_of
from qtool.passes.linear import FLOATS
from qtool.passes.remove_identities import shape_dims
from qtool.passes.rewriting import Editor, rewrites


@rewrites("BatchNormalization")
def lower_batchnorm(node: ir.Node, editor: Editor) -> bool:
    """Replace k * x + b per channel by a depthwise 1x1 Conv, or Mul and Add where x has rank 2.

    As a Conv it has one rounding and a scale per channel when it is quantized.
    """
    x, y = node.inputs[0], node.outputs[0]
    shape = shape_dims(x)
    if x is None or shape is None or not 2 <= len(shape) <= 5 or x.dtype not in FLOATS:
        return False
    n_channels = shape[1]
    affine = affine_of(node, len(shape), 1, n_channels) if isinstance(n_channels, int) else None
    if affine is None or not isinstance(n_channels, int):
        return False
    dtype = x.dtype
    assert dtype is not None

    def constant(values: np.ndarray, kind: str) -> ir.Value:
        tensor = ir.Tensor(values.astype(dtype.numpy()), dtype=dtype)
        assert node.graph is not None
        return editor.constant(node.graph, f"{y.name}_{kind}", tensor)

    if len(shape) == 2:
        scaled = ir.node(
            "Mul", [x, constant(affine.k, "scale")], name=editor.name(f"{node.name}_scale")
        )
        scaled.outputs[0].name = editor.name(f"{y.name}_scaled")
        new = [scaled, ir.node("Add", [scaled.outputs[0], constant(affine.b, "shift")])]
    else:
        kernel = [1] * (len(shape) - 2)
        weight = constant(affine.k.reshape(n_channels, 1, *kernel), "weight")
        inputs = [x, weight, constant(affine.b, "bias")]
        new = [ir.node("Conv", inputs, {"group": n_channels, "kernel_shape": kernel})]
    new[-1].name = node.name
    editor.replace(node, *new)
    if affine.statistics is not None and y.name:
        editor.batch_norm[y.name] = affine.statistics
    return True
