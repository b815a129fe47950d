"""Ops in float32 and on other types: near onnxruntime, or equal where nothing is rounded."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper
from runtime.graphs import ISAS, Graph, integers, per_tensor

from qtool.errors import UnsupportedError

F, I = np.float32, np.int64  # noqa: E741
UNARY = {
    "Relu": {}, "Sigmoid": {}, "Tanh": {}, "Exp": {}, "Erf": {}, "Neg": {}, "Abs": {},
    "LeakyRelu": {"alpha": 0.3}, "Elu": {"alpha": 1.5}, "HardSigmoid": {"alpha": 0.3, "beta": 0.4},
    "HardSwish": {}, "Gelu": {}, "Softplus": {}, "Softsign": {}, "Floor": {}, "Ceil": {},
    "Round": {}, "Sign": {}, "Sin": {}, "Cos": {}, "Mish": {},
    "Selu": {"alpha": 1.7, "gamma": 1.1}, "Celu": {"alpha": 1.5}, "ThresholdedRelu": {"alpha": 0.7},
    "Tan": {},
}  # fmt: skip
POSITIVE = {"Log": {}, "Sqrt": {}, "Reciprocal": {}}


def near(graph: Graph, *, isa: str | None = None, rtol: float = 2e-6, atol: float = 1e-7) -> None:
    """Compare with onnxruntime, within a tolerance of the largest element."""
    for y, expected in zip(graph.run(isa), graph.onnxruntime(), strict=True):
        assert y.dtype == expected.dtype
        assert y.shape == expected.shape
        largest = np.abs(expected[np.isfinite(expected)]).max(initial=0) if expected.size else 0
        np.testing.assert_allclose(y, expected, rtol=rtol, atol=atol + rtol * largest)


def values(rng, *shape: int, scale: float = 3) -> np.ndarray:
    return (rng.normal(size=shape) * scale).astype(F)


@pytest.mark.parametrize("isa", ISAS[:3])
@pytest.mark.parametrize("op", {**UNARY, **POSITIVE})
def test_functions_of_one_operand(op, isa, rng):
    x = values(rng, 3, 7, 11)
    graph = Graph(22)
    x = np.abs(x) + F(0.01) if op in POSITIVE else x
    graph.output(graph.node(op, graph.feed(x), **(UNARY | POSITIVE)[op]), "float32", 3)

    near(graph, isa=isa)


@pytest.mark.parametrize("op", ["Exp", "Sigmoid", "Tanh", "Erf", "Gelu"])
def test_functions_at_the_ends(op):
    ends = np.array([np.inf, -np.inf, 200, -200, 88.7, -87.3, 1e-30, -0.0, 0.0, 0.62, 0.93], F)
    graph = Graph()
    graph.output(graph.node(op, graph.feed(np.tile(ends, 7))), "float32", 1)

    near(graph)


def test_nan_stays_nan():
    graph = Graph()
    x = graph.feed(np.full(19, np.nan, F))
    for op in ("Exp", "Sigmoid", "Tanh", "Erf"):
        graph.output(graph.node(op, x), "float32", 1)

    assert all(np.isnan(y).all() for y in graph.run())


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div", "Min", "Max", "Pow"])
@pytest.mark.parametrize("shapes", [((2, 3, 4), (2, 3, 4)), ((2, 3, 4), (3, 1)), ((1, 4), (3, 1))])
def test_functions_of_two_operands(op, shapes, rng):
    a, b = (values(rng, *shape) for shape in shapes)
    a = np.abs(a) if op == "Pow" else a
    graph = Graph()
    graph.output(graph.node(op, graph.feed(a), graph.feed(b)), "float32", len(shapes[0]))

    near(graph)


@pytest.mark.parametrize("types", [("float32", "int64"), ("int64", "int64"), ("int32", "float32")])
def test_pow_of_other_types(types, rng):
    graph = Graph()
    a, b = rng.integers(-4, 5, (3, 4)).astype(types[0]), rng.integers(0, 4, (4,)).astype(types[1])
    graph.output(graph.node("Pow", graph.feed(a), graph.feed(b)), types[0], 2)

    near(graph)


@pytest.mark.parametrize("op", ["Sum", "Mean", "Max", "Min"])
def test_functions_of_many_operands(op, rng):
    graph = Graph()
    operands = [graph.feed(values(rng, 3, n)) for n in (4, 1, 4)]
    graph.output(graph.node(op, *operands), "float32", 2)

    near(graph)


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div", "Min", "Max", "Mod"])
@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_arithmetic_of_integers(op, dtype, rng):
    a = rng.integers(-9, 10, (4, 5)).astype(dtype)
    b = rng.choice([-3, -1, 2, 7], (5,)).astype(dtype)
    graph = Graph()
    graph.output(graph.node(op, graph.feed(a), graph.feed(b)), dtype, 2)

    near(graph, rtol=0, atol=0)


@pytest.mark.parametrize("op", ["Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual"])
@pytest.mark.parametrize("dtype", ["float32", "int64", "int32"])
def test_comparisons(op, dtype, rng):
    a, b = rng.integers(0, 3, (4, 5)).astype(dtype), rng.integers(0, 3, (4, 1)).astype(dtype)
    graph = Graph()
    graph.output(graph.node(op, graph.feed(a), graph.feed(b)), "bool", 2)

    near(graph, rtol=0, atol=0)


@pytest.mark.parametrize("op", ["And", "Or", "Xor"])
def test_logic(op, rng):
    a, b = rng.integers(0, 2, (4, 5)) > 0, rng.integers(0, 2, (4, 5)) > 0
    graph = Graph()
    graph.output(graph.node("Not", graph.node(op, graph.feed(a), graph.feed(b))), "bool", 2)

    near(graph, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", ["float32", "int64", "uint8"])
def test_where(dtype, rng):
    graph = Graph()
    a = graph.feed(rng.integers(0, 9, (3, 4)).astype(dtype))
    b = graph.feed(rng.integers(0, 9, (1,)).astype(dtype))
    graph.output(graph.node("Where", graph.feed(rng.random((2, 1, 4)) > 0.5), a, b), dtype, 3)

    near(graph, rtol=0, atol=0)


@pytest.mark.parametrize("to", ["float32", "int64", "int32", "bool", "float64", "int8", "uint8"])
@pytest.mark.parametrize("dtype", ["float32", "int64", "int32", "bool", "float64"])
def test_cast(dtype, to):
    x = np.array([0, 1, 2, 5, 100, 0, 3], dtype)
    graph = Graph()
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(to))
    graph.output(graph.node("Cast", graph.feed(x), to=kind), to, 1)

    near(graph, rtol=0, atol=0)


@pytest.mark.parametrize("axes", [[1], [0, 2], [-1], [1, 2], [0, 1, 2, 3], [1, 3]])
@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize(
    "op", ["ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL2", "ReduceL1",
           "ReduceSumSquare", "ReduceProd"],
)  # fmt: skip
def test_reductions(op, axes, keepdims, rng):
    graph = Graph()
    x = graph.feed(values(rng, 2, 3, 4, 5, scale=1))
    y = graph.node(op, x, graph.constant(np.array(axes, I)), keepdims=keepdims)
    graph.output(y, "float32", 4 if keepdims else 4 - len(axes))

    near(graph)


@pytest.mark.parametrize("op", ["ArgMax", "ArgMin"])
@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("last", [0, 1])
def test_arg_extremes(op, axis, last, rng):
    graph = Graph()
    x = graph.feed(rng.integers(0, 4, (5, 6, 7)).astype(F))
    graph.output(graph.node(op, x, axis=axis, select_last_index=last), "int64", 3)

    near(graph, rtol=0, atol=0)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_gather_with_indices_that_are_fed(axis, rng):
    graph = Graph()
    x, indices = graph.feed(values(rng, 3, 4, 5)), graph.feed(np.array([[0, -1], [2, 1]], I))
    graph.output(graph.node("Gather", x, indices, axis=axis), "float32", 4)

    near(graph, rtol=0, atol=0)


def test_gather_of_quantized_rows(rng):
    p = per_tensor(0.1, 7)
    graph = Graph()
    table = graph.fixed(integers(rng, (9, 5), p), p)
    graph.output(graph.node("Gather", table, graph.feed(np.array([3, 0, -1], I))), "float32", 2)

    near(graph)


MODES = ["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric", "half_pixel_symmetric"]


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("coordinates", MODES)
@pytest.mark.parametrize("scales", [(2.0, 2.0), (0.6, 1.7), (3.0, 1.0)])
def test_resize(mode, coordinates, scales, rng):
    graph = Graph()
    x = graph.feed(values(rng, 2, 3, 5, 6))
    factors = graph.constant(np.array([1, 1, *scales], F))
    y = graph.node("Resize", x, "", factors, mode=mode, coordinate_transformation_mode=coordinates)
    graph.output(y, "float32", 4)

    near(graph)


@pytest.mark.parametrize("nearest", ["floor", "ceil", "round_prefer_ceil", "round_prefer_floor"])
def test_nearest_modes_of_resize_to_sizes(nearest, rng):
    graph = Graph()
    x = graph.feed(values(rng, 1, 2, 5, 6))
    sizes = graph.constant(np.array([1, 2, 7, 4], I))
    graph.output(graph.node("Resize", x, "", "", sizes, nearest_mode=nearest), "float32", 4)

    near(graph, rtol=0, atol=0)


@pytest.mark.parametrize("mode", ["reflect", "edge", "wrap"])
@pytest.mark.parametrize("quantized", [False, True])
def test_padding_with_what_is_there(mode, quantized, rng):
    p = per_tensor(0.05, 100)
    graph = Graph()
    x = graph.feed(values(rng, 2, 3, 4, 5))
    x = graph.dequantize(graph.quantize(x, p), p) if quantized else x
    y = graph.node("Pad", x, graph.constant(np.array([0, 1, 2, 0, 1, 0, 3, 4], I)), mode=mode)
    graph.output(graph.dequantize(graph.quantize(y, p), p) if quantized else y, "float32", 4)

    near(graph, rtol=0, atol=0)


@pytest.mark.parametrize("isa", ISAS[:3])
@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax"])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_softmax(op, axis, isa, rng):
    graph = Graph()
    graph.output(graph.node(op, graph.feed(values(rng, 3, 17, 35)), axis=axis), "float32", 3)

    near(graph, isa=isa, rtol=4e-6)


def test_softmax_of_before_opset_13(rng):
    graph = Graph(12)
    graph.output(graph.node("Softmax", graph.feed(values(rng, 3, 4, 5)), axis=1), "float32", 3)

    near(graph, rtol=4e-6)


@pytest.mark.parametrize("axis", [-1, 1])
def test_layer_normalization(axis, rng):
    graph = Graph()
    shape = (7, 33) if axis == 1 else (33,)
    scale, bias = (graph.constant(values(rng, *shape)) for _ in range(2))
    x = graph.feed(values(rng, 5, 7, 33))
    y = graph.node("LayerNormalization", x, scale, bias, axis=axis, epsilon=1e-3)
    graph.output(y, "float32", 3)

    near(graph, rtol=4e-6)


def test_batch_normalization(rng):
    graph = Graph()
    vectors = [graph.constant(np.abs(values(rng, 3)) + F(0.1)) for _ in range(4)]
    x = graph.feed(values(rng, 2, 3, 4, 5))
    graph.output(graph.node("BatchNormalization", x, *vectors, epsilon=1e-3), "float32", 4)

    near(graph, rtol=4e-6)


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("op", ["MaxPool", "AveragePool", "GlobalMaxPool", "GlobalAveragePool"])
@pytest.mark.parametrize("quantized", [False, True])
def test_pools_of_any_dims(dims, op, quantized, rng):
    graph, p = Graph(19), per_tensor(0.05, 100)
    x = graph.feed(values(rng, 2, 3, *(7, 6, 5)[:dims]))
    x = graph.dequantize(graph.quantize(x, p), p) if quantized else x
    attributes = {} if "Global" in op else {
        "kernel_shape": [3, 2, 2][:dims], "strides": [2, 1, 2][:dims],
        "pads": [1, 0, 1][:dims] * 2, "dilations": [1, 2, 1][:dims],
    }  # fmt: skip
    graph.output(graph.node(op, x, **attributes), "float32", 2 + dims)

    near(graph)


@pytest.mark.parametrize("count_include_pad", [0, 1])
def test_windows_that_end_beyond_the_padding(count_include_pad, rng):
    graph = Graph(19)
    y = graph.node(
        "AveragePool", graph.feed(values(rng, 1, 2, 7, 8)), kernel_shape=[3, 3], strides=[2, 2],
        pads=[1, 1, 0, 1], ceil_mode=1, count_include_pad=count_include_pad,
    )  # fmt: skip
    graph.output(y, "float32", 4)

    near(graph)


@pytest.mark.parametrize("quantized", [False, True])
def test_space_to_depth(quantized, rng):
    graph, p = Graph(), per_tensor(0.05, 100)
    x = graph.feed(values(rng, 2, 3, 4, 6))
    x = graph.dequantize(graph.quantize(x, p), p) if quantized else x
    graph.output(graph.node("SpaceToDepth", x, blocksize=2), "float32", 4)

    near(graph, rtol=0, atol=0)


def test_all_nodes_that_cannot_run_are_named_together(rng):
    graph = Graph()
    x = graph.node("Cosh", graph.feed(values(rng, 3, 4)))
    graph.output(graph.node("Add", graph.node("TopKnot", x), graph.node("Sinh", x)), "float32", 2)

    with pytest.raises(UnsupportedError) as error:
        graph.run()

    assert str(error.value) == (
        "the native runtime cannot run 3 nodes: Cosh 'Cosh0_0': no such op; "
        "TopKnot 'TopKnot1_0': no such op; Sinh 'Sinh2_0': no such op"
    )


def test_instance_normalization(rng):
    graph = Graph()
    scale, bias = (graph.constant(values(rng, 3)) for _ in range(2))
    graph.output(
        graph.node("InstanceNormalization", graph.feed(values(rng, 2, 3, 4, 5)), scale, bias),
        "float32", 4,
    )  # fmt: skip

    near(graph, rtol=4e-6)
