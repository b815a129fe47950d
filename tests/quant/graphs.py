"""Small graphs for the tests of quantization, written as ONNX text."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from qtool.model import Model, add_initializer
from qtool.shapes import infer_shapes


def model_of(text: str, *, opset: int = 17, **constants: np.ndarray) -> Model:
    """Return the model of a graph body in ONNX text; constants become initializers."""
    loaded = ir.from_onnx_text(f'<ir_version: 9, opset_import: ["" : {opset}]>\n{text}')
    graph = loaded.graph
    for name, values in constants.items():
        placeholder = next(v for v in graph.inputs if v.name == name)
        graph.inputs.remove(placeholder)
        placeholder.name = f"{name}.placeholder"
        value = add_initializer(graph, name, np.asarray(values))
        ir.convenience.replace_all_uses_with(placeholder, value)
    return infer_shapes(Model(loaded))


def conv_net(rng: np.random.Generator) -> Model:
    """Return conv -> relu -> conv -> add of a constant -> maxpool -> gemm -> softmax."""
    return model_of(
        """
        net (float[n, 3, 8, 8] x, float[4,3,3,3] w1, float[4] b1, float[4,4,3,3] w2,
             float[1,4,1,1] c, float[64, 5] w3, float[5] b3) => (float[n, 5] y) {
            a = Conv<pads = [1,1,1,1]>(x, w1, b1)
            r = Relu(a)
            d = Conv<pads = [1,1,1,1]>(r, w2)
            e = Add(d, c)
            m = MaxPool<kernel_shape = [2,2], strides = [2,2]>(e)
            f = Flatten(m)
            g = Gemm(f, w3, b3)
            y = Softmax(g)
        }
        """,
        w1=(rng.normal(size=(4, 3, 3, 3)) / 5).astype(np.float32),
        b1=rng.normal(size=4).astype(np.float32),
        w2=(rng.normal(size=(4, 4, 3, 3)) / 6).astype(np.float32),
        c=rng.normal(size=(1, 4, 1, 1)).astype(np.float32),
        w3=(rng.normal(size=(64, 5)) / 8).astype(np.float32),
        b3=rng.normal(size=5).astype(np.float32),
    )


def node(model: Model, output: str) -> ir.Node:
    """Return the node that makes a tensor."""
    return next(n for n in model.graph if any(v.name == output for v in n.outputs))


def ops(model: Model) -> list[str]:
    """Return the op types of the main graph, in order."""
    return [n.op_type for n in model.graph]
