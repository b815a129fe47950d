from __future__ import annotations

import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import helper

LAYERS, CHANNELS, SIZE = 10, 160, 6  # a Gram matrix takes 17 MB, the weights of a layer 0.9
LIMIT = 270_000_000
COMMAND = """
from qtool.cli import main
from qtool.runtime.memory import peak_bytes

try:
    main()
finally:
    print(peak_bytes())
"""


@pytest.fixture
def chain(tmp_path):
    """Small convolutions with large Gram matrices, and samples."""
    rng = np.random.default_rng(0)
    nodes, weights = [], []
    for i in range(LAYERS):
        w = rng.normal(0, 0.04, (CHANNELS, CHANNELS, 3, 3)).astype(np.float32)
        weights.append(onnx.numpy_helper.from_array(w, f"w{i}"))
        nodes.append(helper.make_node("Conv", [f"x{i}", f"w{i}"], [f"y{i}"], pads=[1] * 4))
        nodes.append(helper.make_node("Relu", [f"y{i}"], [f"x{i + 1}"]))
    values = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N", CHANNELS, SIZE, SIZE])
        for name in ("x0", f"x{LAYERS}")
    ]
    graph = helper.make_graph(nodes, "chain", values[:1], values[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    np.save(tmp_path / "x.npy", rng.normal(size=(12, CHANNELS, SIZE, SIZE)).astype(np.float32))
    return tmp_path


def calibrated(folder, *options):
    """Run calibrate in a process of its own; return what it wrote, its peak and what it said."""
    output = folder / "c.qtm"
    command = [sys.executable, "-c", COMMAND, "calibrate", "-i", folder / "m.onnx", "--gram"]
    command += ["--data", folder / "x.npy", "--threads", 2, "-o", output, *options]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True)
    return output.read_bytes(), int(done.stdout), done.stderr


@pytest.mark.slow
def test_the_process_stays_within_its_memory_and_writes_the_same(chain):
    within, peak, said = calibrated(chain, "--memory", LIMIT)

    assert " passes; " in said
    assert peak <= LIMIT
    whole, more, _ = calibrated(chain)
    assert more > LIMIT
    assert within == whole
