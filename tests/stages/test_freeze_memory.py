from __future__ import annotations

import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import helper

LAYERS, WIDTH = 24, 2048  # 16 MB each
SCRIPT = """
import resource, sys
from qtool import formats
from qtool.stages.freeze import freeze

unit = 1 if sys.platform == "darwin" else 1024
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
formats.save(freeze(formats.load(sys.argv[1]), check=False), sys.argv[2])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit - before)
"""


@pytest.fixture
def chain(tmp_path):
    """A chain of MatMul, Mul, Add with 384 MB of weights in a sparse external file."""
    nodes, initializers, tensor = [], [], "x"
    for i in range(LAYERS):
        weight = onnx.TensorProto(
            name=f"w{i}", data_type=onnx.TensorProto.FLOAT, dims=[WIDTH, WIDTH],
            data_location=onnx.TensorProto.EXTERNAL,
        )  # fmt: skip
        size = 4 * WIDTH * WIDTH
        for key, value in (("location", "m.data"), ("offset", i * size), ("length", size)):
            weight.external_data.add(key=key, value=str(value))
        scale = onnx.numpy_helper.from_array(np.full(WIDTH, 1.5, np.float32), f"k{i}")
        initializers += [weight, scale]
        nodes.append(helper.make_node("MatMul", [tensor, f"w{i}"], [f"a{i}"]))
        nodes.append(helper.make_node("Mul", [f"a{i}", f"k{i}"], [f"b{i}"]))
        nodes.append(helper.make_node("Add", [f"b{i}", f"k{i}"], [f"c{i}"]))
        tensor = f"c{i}"
    values = [
        helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, ["N", WIDTH])
        for n in ("x", tensor)
    ]
    graph = helper.make_graph(nodes, "chain", values[:1], values[1:], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with (tmp_path / "m.data").open("wb") as file:
        file.truncate(LAYERS * size)
    return tmp_path / "m.onnx"


@pytest.mark.slow
def test_memory_does_not_grow_with_the_weights(chain, tmp_path):
    command = [sys.executable, "-c", SCRIPT, str(chain), str(tmp_path / "f.qtm")]

    done = subprocess.run(command, capture_output=True, text=True, check=True)

    assert int(done.stdout) < LAYERS * 4 * WIDTH * WIDTH / 2
