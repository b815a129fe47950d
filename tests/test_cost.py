from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from quant.graphs import model_of, node

from qtool.cost import macs, total_macs
from qtool.formats import load
from qtool.shapes import shapes

# (text of a graph whose output is y, its MACs worked out by hand)
CASES = {
    "Conv": (
        "g (float[2,3,8,8] x, float[4,3,3,3] w) => (float[a,b,c,d] y) "
        "{ y = Conv<pads=[1,1,1,1]>(x, w) }",
        2 * 4 * 8 * 8 * (3 * 3 * 3),
    ),
    "depthwise Conv with strides": (
        "g (float[1,4,8,8] x, float[4,1,3,3] w) => (float[a,b,c,d] y) "
        "{ y = Conv<group=4, pads=[1,1,1,1], strides=[2,2]>(x, w) }",
        4 * 4 * 4 * (3 * 3),
    ),
    "ConvTranspose": (
        "g (float[1,4,5,5] x, float[4,2,3,3] w) => (float[a,b,c,d] y) "
        "{ y = ConvTranspose<strides=[2,2]>(x, w) }",
        4 * 5 * 5 * (2 * 3 * 3),
    ),
    "Gemm": (
        "g (float[2,7] x, float[5,7] w) => (float[a,b] y) { y = Gemm<transB=1>(x, w) }",
        2 * 5 * 7,
    ),
    "Gemm, first operand transposed": (
        "g (float[7,2] x, float[7,5] w) => (float[a,b] y) { y = Gemm<transA=1>(x, w) }",
        2 * 5 * 7,
    ),
    "MatMul of two activations": (
        "g (float[3,4,7] x, float[3,7,5] w) => (float[a,b,c] y) { y = MatMul(x, w) }",
        3 * 4 * 5 * 7,
    ),
    "MatMul with a vector": (
        "g (float[4,7] x, float[7] w) => (float[a] y) { y = MatMul(x, w) }",
        4 * 7,
    ),
    "LSTM": (
        "g (float[6,2,3] x, float[1,20,3] w, float[1,20,5] r) => (float[a,b,c,d] y) "
        "{ y = LSTM<hidden_size=5>(x, w, r) }",
        6 * 2 * 20 * (3 + 5),
    ),
    "GRU in two directions": (
        "g (float[6,2,3] x, float[2,15,3] w, float[2,15,5] r) => (float[a,b,c,d] y) "
        '{ y = GRU<hidden_size=5, direction="bidirectional">(x, w, r) }',
        6 * 2 * 2 * 15 * (3 + 5),
    ),
    "ConvInteger": (
        "g (uint8[1,3,8,8] x, int8[4,3,3,3] w) => (int32[a,b,c,d] y) { y = ConvInteger(x, w) }",
        4 * 6 * 6 * (3 * 3 * 3),
    ),
    "MatMulInteger": (
        "g (uint8[2,7] x, int8[7,5] w) => (int32[a,b] y) { y = MatMulInteger(x, w) }",
        2 * 5 * 7,
    ),
    "QLinearConv": (
        "g (uint8[1,3,8,8] x, float s, uint8 z, int8[4,3,3,3] w, float t, int8 v) "
        "=> (uint8[a,b,c,d] y) { y = QLinearConv(x, s, z, w, t, v, s, z) }",
        4 * 6 * 6 * (3 * 3 * 3),
    ),
    "QLinearMatMul": (
        "g (uint8[2,7] x, float s, uint8 z, int8[7,5] w, float t, int8 v) "
        "=> (uint8[a,b] y) { y = QLinearMatMul(x, s, z, w, t, v, s, z) }",
        2 * 5 * 7,
    ),
    "Relu": ("g (float[2,7] x) => (float[2,7] y) { y = Relu(x) }", 0),
}


@pytest.mark.parametrize("case", CASES)
def test_macs_of(case):
    text, expected = CASES[case]
    model = model_of(text)

    assert macs(node(model, "y"), shapes(model)) == expected


def test_matmul_nbits_counts_the_unpacked_weight():
    x, w = (ir.val(n, ir.DataType.FLOAT, shape) for n, shape in (("x", [2, 64]), ("w", [5, 2, 16])))
    packed = ir.node("MatMulNBits", [x, w], {"K": 64, "N": 5}, domain="com.microsoft")

    assert macs(packed, {"x": (2, 64), "w": (5, 2, 16)}) == 2 * 64 * 5


@pytest.mark.parametrize("known", [{}, {"x": None, "w": None, "y": ("n", 5)}])
def test_macs_are_unknown_without_shapes(known):
    model = model_of("g (float[2,7] x, float[7,5] w) => (float[2,5] y) { y = MatMul(x, w) }")

    assert macs(node(model, "y"), known) is None


def test_einsum_is_unknown_rather_than_free():
    text = 'g (float[2,3] x) => (float[2] y) { y = Einsum<equation="ij->i">(x) }'
    model = model_of(text)

    assert total_macs(model, shapes(model)) == (0, ["Einsum"])


def test_total_macs_count_the_nodes_of_subgraphs():
    model = model_of(
        """
        g (bool c, float[2,7] x, float[7,5] w) => (float[2,5] y) {
            y = If(c) <then_branch = a () => (float[2,5] t) { t = MatMul(x, w) },
                       else_branch = b () => (float[2,5] e) { e = MatMul(x, w) }>
        }
        """,
        w=np.zeros((7, 5), np.float32),
    )

    assert total_macs(model, shapes(model)) == (2 * 2 * 5 * 7, [])


@pytest.mark.parametrize(
    ("path", "published"),
    [
        ("resnet20-cifar10/model.onnx", 40_551_040),  # He et al.: 40.55 M
        ("mobilenet_v1_0.75_224/model.onnx", 325_400_448),  # Howard et al.: 325 M
        ("squeezenet1_1-torchvision/model.onnx", 349_151_936),  # torchvision: 0.35 GMACs
        ("mlperf-tiny-resnet8-cifar10/model.onnx", 12_501_632),  # MLPerf Tiny: 12.5 M
        ("mlperf-tiny-dscnn-kws/model.onnx", 2_656_768),  # MLPerf Tiny: 2.7 M
    ],
)
def test_zoo_models_have_the_published_macs(zoo, path, published):
    model = load(zoo / "models" / path)

    assert total_macs(model, shapes(model)) == (published, [])
