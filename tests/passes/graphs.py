"""Small graphs for the tests of passes, written in ONNX's text form."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir

from qtool.model import Model, all_nodes
from qtool.runtime.ort import OrtSession
from qtool.shapes import infer_shapes


def parse(body: str, *, opset: int = 13, ir_version: int = 8, **weights: Any) -> Model:
    """Return the model of a graph such as "g (float[N,4] x) => (float[N,4] y) { y = Relu(x) }".

    weights become initializers: float32 arrays, or arrays as they are where they are no floats.
    """
    imports = f'"" : {opset}' + (', "custom" : 1' if "custom." in body else "")
    text = f"<ir_version: {ir_version}, opset_import: [{imports}]>\n{body}"
    proto = onnx.parser.parse_model(text)
    for name, values in weights.items():
        values = np.asarray(values)
        values = values.astype(np.float32) if values.dtype == np.float64 else values
        proto.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    return infer_shapes(Model(ir.from_proto(proto)))


def ops(model: Model) -> dict[str, int]:
    return dict(Counter(node.op_type for node in all_nodes(model)))


def feeds(model: Model, rng: np.random.Generator, size: int = 2) -> dict[str, Any]:
    """Return random inputs; dynamic dims get this size."""
    made = {}
    for spec in model.inputs():
        shape = [d if isinstance(d, int) else size for d in spec.shape or ()]
        if spec.dtype.startswith("float"):
            made[spec.name] = rng.standard_normal(shape).astype(spec.dtype)
        else:
            made[spec.name] = rng.integers(0, 2, shape).astype(spec.dtype)
    return made


def assert_same_outputs(
    before: Model, after: Model, inputs: Mapping[str, Any], tolerance: float = 1e-5
) -> None:
    """Check that both give the same outputs, up to float32 rounding, in onnxruntime."""
    assert [str(s) for s in after.inputs()] == [str(s) for s in before.inputs()]
    assert [s.name for s in after.outputs()] == [s.name for s in before.outputs()]
    expected = OrtSession(before, optimize=False).run(inputs)
    got = OrtSession(after, optimize=False).run(inputs)
    for name, values in expected.items():
        np.testing.assert_allclose(got[name], values, rtol=tolerance, atol=tolerance)
