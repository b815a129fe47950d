"""MobileNetV2 and ResNet-50 as ONNX models, with seeded random weights and BatchNorm folded.

Only the shapes matter for time, and weights of the right size, so that activations neither vanish
nor overflow. Used by bench_runtime.py.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 17
CLASSES = 1000

# (expansion, channels, repeats, stride), table 2 of Sandler et al., MobileNetV2, 2018
MOBILENET_V2 = (
    (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2),
    (6, 320, 1, 1),
)  # fmt: skip
# (channels, repeats, stride), table 1 of He et al., Deep Residual Learning, 2015
RESNET_50 = ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2))


class Network:
    """A graph that grows at its end. Tensors are names; channels are looked up by name."""

    def __init__(self, name: str, seed: int = 0) -> None:
        self._name, self._rng = name, np.random.default_rng(seed)
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[onnx.TensorProto] = []
        self._channels = {"x": 3}

    def add(self, op: str, *inputs: str, channels: int | None = None, **attributes: object) -> str:
        """Add a node and return its output."""
        output = f"{op.lower()}{len(self._nodes)}"
        self._nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        self._channels[output] = channels or self._channels[inputs[0]]
        return output

    def weight(self, values: np.ndarray) -> str:
        """Add a constant and return its name."""
        name = f"w{len(self._weights)}"
        self._weights.append(numpy_helper.from_array(values.astype(np.float32), name))
        return name

    def conv(self, x: str, channels: int, kernel: int, stride: int = 1, groups: int = 1) -> str:
        """Add a Conv with bias whose weights keep the variance of a ReLU's output (He, 2015)."""
        depth = self._channels[x] // groups
        spread = np.sqrt(2 / (depth * kernel * kernel))
        w = self._rng.normal(0, spread, (channels, depth, kernel, kernel))
        b = self._rng.normal(0, 0.1, channels)
        pads = [(kernel - 1) // 2] * 4
        return self.add(
            "Conv", x, self.weight(w), self.weight(b), channels=channels,
            kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=pads, group=groups,
        )  # fmt: skip

    def finish(self, x: str) -> onnx.ModelProto:
        """Add global pooling and the classifier; return the model."""
        flat = self.add("Flatten", self.add("GlobalAveragePool", x))
        depth = self._channels[flat]
        w = self._rng.normal(0, np.sqrt(1 / depth), (CLASSES, depth))
        b = np.zeros(CLASSES)
        y = self.add("Gemm", flat, self.weight(w), self.weight(b), transB=1)
        inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 224, 224])]
        outputs = [helper.make_tensor_value_info(y, TensorProto.FLOAT, [1, CLASSES])]
        graph = helper.make_graph(self._nodes, self._name, inputs, outputs, self._weights)
        opset = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(graph, opset_imports=opset, ir_version=8)
        onnx.checker.check_model(model)
        return model


def mobilenet_v2() -> onnx.ModelProto:
    """Return MobileNetV2 1.0 for 224 x 224 pixels."""
    net = Network("mobilenet_v2")
    low, high = net.weight(np.array(0.0)), net.weight(np.array(6.0))

    def relu6(x: str) -> str:
        return net.add("Clip", x, low, high)

    x, before = relu6(net.conv("x", 32, 3, 2)), 32
    for expansion, channels, repeats, first_stride in MOBILENET_V2:
        for i in range(repeats):
            stride, wide = first_stride if i == 0 else 1, before * expansion
            h = x if expansion == 1 else relu6(net.conv(x, wide, 1))
            h = relu6(net.conv(h, wide, 3, stride, groups=wide))
            h = net.conv(h, channels, 1)
            x = net.add("Add", x, h) if stride == 1 and before == channels else h
            before = channels
    return net.finish(relu6(net.conv(x, 1280, 1)))


def resnet_50() -> onnx.ModelProto:
    """Return ResNet-50 v1.5 for 224 x 224 pixels: the 3 x 3 convolutions have the strides."""
    net = Network("resnet_50")
    x = net.add("Relu", net.conv("x", 64, 7, 2))
    x = net.add("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    for channels, repeats, first_stride in RESNET_50:
        for i in range(repeats):
            stride = first_stride if i == 0 else 1
            h = net.add("Relu", net.conv(x, channels, 1))
            h = net.add("Relu", net.conv(h, channels, 3, stride))
            h = net.conv(h, 4 * channels, 1)
            short = net.conv(x, 4 * channels, 1, stride) if i == 0 else x
            x = net.add("Relu", net.add("Add", h, short))
    return net.finish(x)
