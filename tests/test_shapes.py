from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from quant.graphs import model_of

from qtool.model import Model, add_initializer
from qtool.shapes import infer_shapes, nbytes, open_dims, shapes, size, tensor_bytes

FREE = """
g (float[N, 3, H, W] x) => (float[N, 3, H, W] y) { r = Relu(x) y = Neg(r) }
"""


def test_the_batch_is_1_by_default():
    assert shapes(model_of(FREE))["r"] == (1, 3, "H", "W")


def test_dims_are_set_by_name():
    assert shapes(model_of(FREE), {"N": 8, "H": 5, "W": 6})["r"] == (8, 3, 5, 6)


def test_assume_sets_the_other_dims_but_not_the_batch():
    assert shapes(model_of(FREE), {"W": 6}, assume=32)["r"] == (1, 3, 32, 6)


def test_an_unnamed_first_dim_is_the_batch():
    assert shapes(model_of("g (float[?, 4] x) => (float[?, 4] y) { y = Relu(x) }"))["y"] == (1, 4)


def test_open_dims_are_those_that_nobody_set():
    model = model_of("g (float[N, H, ?] x, float[N] z) => (float[N] y) { y = Relu(x) }")

    assert open_dims(model) == ["H", "x[2]"]


def test_shapes_do_not_edit_the_model():
    model = model_of(FREE)

    shapes(model, {"H": 5, "W": 6})

    assert [str(d) for d in model.graph.inputs[0].shape] == ["N", "3", "H", "W"]


def test_pads_that_are_computed_from_constants_are_followed():
    model = model_of(
        """
        g (float[1, 4] x) => (float[?, ?] y) {
            two = Constant<value = int64[1] {2}>()
            shape = Concat<axis = 0>(two, two)
            flat = ConstantOfShape<value = int64[1] {1}>(shape)
            minus = Constant<value = int64[1] {-1}>()
            pads = Reshape(flat, minus)
            y = Pad(x, pads)
        }
        """
    )

    assert shapes(model)["y"] == (3, 6)


def test_a_constant_that_asks_for_terabytes_is_not_made():
    model = model_of(
        """
        g (float[1, 4] x) => (float[?, ?] y) {
            huge = Constant<value = int64[2] {1000000, 1000000}>()
            z = ConstantOfShape(huge)
            y = MatMul(x, z)
        }
        """
    )

    assert shapes(model)["z"] == (1000000, 1000000)


def test_what_depends_on_the_data_stays_unknown():
    model = model_of("g (float[4] x) => (int64[1, n] y) { y = NonZero(x) }")

    assert size(shapes(model)["y"]) is None


def test_quantized_operators_of_microsoft_have_shapes():
    x = ir.val("x", ir.DataType.UINT8, [1, 3, 8, 8])
    scale, zero = ir.val("s", ir.DataType.FLOAT, []), ir.val("z", ir.DataType.UINT8, [])
    add = ir.node(
        "QLinearAdd", [x, scale, zero, x, scale, zero, scale, zero], domain="com.microsoft"
    )
    add.outputs[0].name = "y"
    graph = ir.Graph(
        [x, scale, zero], add.outputs, nodes=[add], opset_imports={"": 17, "com.microsoft": 1}
    )

    assert shapes(Model(ir.Model(graph, ir_version=9)))["y"] == (1, 3, 8, 8)


def test_a_slice_of_a_negative_dim_does_not_abort_inference():
    """The C++ of onnx 1.23 stops the whole process on this."""
    model = model_of(
        """
        g (float[1, 1, 2, 2] x, float[1, 1, 5, 5] w) => (float[?, ?, ?, ?] y) {
            zero = Constant<value = int64[1] {0}>()
            one = Constant<value = int64[1] {1}>()
            two = Constant<value = int64[1] {2}>()
            c = Conv(x, w)
            y = Slice(c, zero, one, two)
        }
        """
    )

    assert size(shapes(model)["y"]) is None


def test_slices_behind_slices_have_shapes():
    model = model_of(
        """
        g (float[1, 8] x) => (float[?, ?] y) {
            zero = Constant<value = int64[1] {0}>()
            one = Constant<value = int64[1] {1}>()
            six = Constant<value = int64[1] {6}>()
            pads = Constant<value = int64[4] {0, 1, 0, 1}>()
            a = Slice(x, zero, six, one)
            b = Pad(a, pads)
            y = Slice(b, one, six, one)
        }
        """
    )

    assert shapes(model)["y"] == (1, 5)


def test_a_stale_shape_in_the_file_gives_way_to_the_real_one():
    model = model_of("g (float[8, 4] x) => (float[8, 4] y) { r = Relu(x) y = Neg(r) }")
    next(iter(model.graph)).outputs[0].shape = ir.Shape([1, 4])

    assert shapes(model)["r"] == (8, 4)


def test_a_model_that_inference_refuses_comes_back():
    model = model_of("g (float[2, 3] x) => (float[2] y) { y = Relu(x) }")
    next(iter(model.graph)).op_type = "NoSuchOp"

    assert infer_shapes(model).graph.outputs[0].name == "y"


def test_weights_are_not_read():
    class Untouchable(ir.ExternalTensor):
        def tobytes(self):
            raise AssertionError("a weight was read")

        numpy = tobytes

    model = model_of("g (float[2, 512] x) => (float[2, n] y) { y = Relu(x) }")
    tensor = Untouchable("no-file", 0, 1, ir.DataType.FLOAT, shape=ir.Shape([512, 9]), name="w")
    weight = add_initializer(model.graph, "w", tensor)
    relu = next(iter(model.graph))
    relu.op_type = "MatMul"
    relu.resize_inputs(2)
    relu.replace_input_with(1, weight)

    assert shapes(model)["y"] == (2, 9)


@pytest.mark.parametrize(
    ("dtype", "expected"), [("FLOAT", 20), ("INT8", 5), ("INT4", 3), ("STRING", None)]
)
def test_bytes_of_five_elements(dtype, expected):
    assert nbytes((5,), ir.DataType[dtype]) == expected


def test_bytes_of_strings_are_those_of_the_strings():
    tensor = ir.StringTensor([b"ab", b"cde"], shape=ir.Shape([2]))

    assert tensor_bytes(tensor) == 5


def test_a_scalar_has_one_element():
    assert size(()) == 1


def test_bytes_of_an_array():
    assert tensor_bytes(ir.Tensor(np.zeros((3, 2), np.float32))) == 24
