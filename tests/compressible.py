"""A small network with structure, its samples, and how far apart two of its kind are."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from qtool.formats import packed_size
from qtool.model import Model, array
from qtool.runtime.ort import OrtSession
from qtool.stages.calibrate import calibrate

TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
agraph (float[N,4,8,8] x) => (float[N,6] y)
{
    c = Conv <pads=[1,1,1,1]> (x, w, b)
    r = Relu(c)
    d = Conv <group=16, pads=[1,1,1,1]> (r, dw)
    e = Relu(d)
    p = GlobalAveragePool(e)
    f = Flatten(p)
    g = Gemm <transB=1> (f, v, u)
    y = MatMul(g, m)
}
"""


@dataclass
class Fed:
    feeds: dict
    where: str = "sample"
    n: int = 1


def bound(text, shapes, rng):
    """Return the model of a text, with random constants of these shapes."""
    model = ir.from_onnx_text(text)
    for name, shape in shapes.items():
        values = rng.normal(size=shape).astype(np.float32) / 4
        value = next(v for n in model.graph for v in n.inputs if v.name == name)
        value.const_value = ir.Tensor(values, name=name)
        value.type = ir.TensorType(ir.DataType.FLOAT)
        value.shape = ir.Shape(shape)
        model.graph.register_initializer(value)
    return Model(model)


def network():
    """Return the calibrated network and its samples."""
    rng = np.random.default_rng(5)
    shapes = {"w": (16, 4, 3, 3), "b": (16,), "dw": (16, 1, 3, 3), "v": (40, 16), "u": (40,),
              "m": (40, 6)}  # fmt: skip
    model = bound(TEXT, shapes, rng)
    samples = [
        Fed({"x": rng.normal(size=(1, 4, 8, 8)).astype(np.float32).cumsum(3)}) for _ in range(40)
    ]
    return calibrate(model, data=samples, gram=True), samples


def outputs(model, samples):
    session = OrtSession(model)
    return np.concatenate([session.run(one.feeds)["y"] for one in samples])


def relative(model, other, samples):
    real, found = outputs(model, samples), outputs(other, samples)
    return float(np.mean((real - found) ** 2) / np.var(real))


def values(model, name):
    return np.asarray(array(model.graph.initializers[name]))


def packed(model):
    return packed_size(replace(model, statistics=None))
