from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper
from passes.graphs import assert_same_outputs, feeds

from qtool.model import Model
from qtool.stages.freeze import freeze

N_GRAPHS = 60


class Grower:
    """Grows a random graph of what exporters write around linear layers, from its input on."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, Any] = {}
        channels, size = int(self.rng.integers(1, 6)), int(self.rng.integers(4, 9))
        self.shape = (channels, size, size)  # without the batch axis
        self.start = self.shape
        self.tensor = "x"
        self.kept: list[tuple[str, tuple[int, ...]]] = []

    def weight(self, *shape: int, low: float = -1.0, high: float = 1.0) -> str:
        name = f"w{len(self.weights)}"
        self.weights[name] = self.rng.uniform(low, high, shape).astype(np.float32)
        return name

    def indices(self, *values: int) -> str:
        name = f"w{len(self.weights)}"
        self.weights[name] = np.array(values, np.int64)
        return name

    def add(self, op_type: str, *inputs: str, **attributes: Any) -> None:
        output = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, list(inputs), [output], **attributes))
        self.tensor = output

    def grow(self) -> None:
        if self.rng.random() < 0.2:
            self.kept.append((self.tensor, self.shape))
        choices = [self.affine, self.batch_norm, self.no_op, self.activation, self.linear]
        choices += [self.padded, self.join] if len(self.shape) == 3 else [self.join]
        step = choices[int(self.rng.integers(len(choices)))]
        step()

    def affine(self) -> None:
        op_type = str(self.rng.choice(["Mul", "Add", "Sub", "Div"]))
        c = self.shape[0]
        tail = [1] * (len(self.shape) - 1)
        shapes = [(), (1,), (c, *tail), (1, c, *tail)]
        shape = shapes[int(self.rng.integers(len(shapes)))]
        constant = self.weight(*shape, low=0.5, high=2)
        swap = op_type != "Div" and self.rng.random() < 0.3
        pair = (constant, self.tensor) if swap else (self.tensor, constant)
        self.add(op_type, *pair)

    def batch_norm(self) -> None:
        c = self.shape[0]
        given = [self.weight(c), self.weight(c), self.weight(c), self.weight(c, low=0.5, high=2)]
        self.add("BatchNormalization", self.tensor, *given, epsilon=1e-3)

    def no_op(self) -> None:
        kind = int(self.rng.integers(4))
        if kind == 0:
            self.add("Identity", self.tensor)
        elif kind == 1:
            self.add("Reshape", self.tensor, self.indices(0, -1))
            self.add("Reshape", self.tensor, self.indices(-1, *self.shape))
        elif kind == 2 and len(self.shape) == 3:
            self.add("Transpose", self.tensor, perm=[0, 2, 3, 1])
            self.add("Transpose", self.tensor, perm=[0, 3, 1, 2])
        else:
            self.add("Dropout", self.tensor)

    def activation(self) -> None:
        op_type = str(self.rng.choice(["Relu", "Sigmoid", "Abs", "HardSwish"]))
        self.add(op_type, self.tensor)

    def linear(self) -> None:
        if len(self.shape) == 1:
            self.dense()
        elif self.rng.random() < 0.15:
            self.add("Flatten", self.tensor)
            self.shape = (int(np.prod(self.shape)),)
        else:
            self.conv(str(self.rng.choice(["Conv", "ConvTranspose"])))

    def conv(self, op_type: str) -> None:
        c, size, _ = self.shape
        groups = c if self.rng.random() < 0.3 else 1
        n = groups * int(self.rng.integers(1, 3)) if groups > 1 else int(self.rng.integers(1, 6))
        kernel = int(self.rng.integers(1, min(size, 3) + 1))
        shape = (n, c // groups) if op_type == "Conv" else (c, n // groups)
        inputs = [self.tensor, self.weight(*shape, kernel, kernel)]
        if self.rng.random() < 0.5:
            inputs.append(self.weight(n))
        pad = int(self.rng.integers(0, kernel // 2 + 1))
        self.add(op_type, *inputs, group=groups, pads=[pad] * 4)
        grown = 2 * pad - kernel + 1 if op_type == "Conv" else kernel - 1 - 2 * pad
        self.shape = (n, size + grown, size + grown)

    def dense(self) -> None:
        (k,), n = self.shape, int(self.rng.integers(1, 7))
        if self.rng.random() < 0.5:
            self.add("MatMul", self.tensor, self.weight(k, n))
        else:
            alpha, beta = self.rng.choice([1.0, 0.5], 2)
            bias = self.weight(*((n,), (1, n), (1,))[int(self.rng.integers(3))])
            transposed = int(self.rng.integers(2))
            weight = self.weight(*((n, k) if transposed else (k, n)))
            self.add("Gemm", self.tensor, weight, bias, alpha=alpha, beta=beta, transB=transposed)
        self.shape = (n,)

    def padded(self) -> None:
        c, height, width = self.shape
        self.add("Pad", self.tensor, self.indices(0, 0, 1, 0, 0, 0, 1, 0))
        self.shape = (c, height + 2, width)
        weight = self.weight(2, c, 3, 1)
        self.add("Conv", self.tensor, weight, kernel_shape=[3, 1])
        self.shape = (2, height, width)

    def join(self) -> None:
        for name, shape in self.kept:
            if shape == self.shape and name != self.tensor:
                self.add("Add", self.tensor, name)
                return

    def model(self) -> Model:
        kind = onnx.TensorProto.FLOAT
        graph = helper.make_graph(
            self.nodes,
            "random",
            [helper.make_tensor_value_info("x", kind, ["N", *self.start])],
            [helper.make_tensor_value_info(self.tensor, kind, ["N", *self.shape])],
            [onnx.numpy_helper.from_array(values, name) for name, values in self.weights.items()],
        )
        imports = [helper.make_opsetid("", 14)]
        return Model(ir.from_proto(helper.make_model(graph, opset_imports=imports, ir_version=8)))


@pytest.mark.parametrize("seed", range(N_GRAPHS))
def test_freezing_a_random_graph_keeps_its_outputs(seed):
    grower = Grower(seed)
    for _ in range(2 + seed % 10):
        grower.grow()
    if not grower.nodes:
        grower.activation()
    model = grower.model()

    frozen = freeze(model, check=False)

    inputs = feeds(model, np.random.default_rng(seed))
    assert_same_outputs(model, frozen, inputs, tolerance=2e-3)
    assert not {"BatchNormalization", "Dropout", "Constant"} & {n.op_type for n in frozen.graph}
