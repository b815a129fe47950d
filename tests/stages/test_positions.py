from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator

from qtool.stages._positions import inputs_at, outputs_at, positions
from qtool.statistics.gram import Layer, Window


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(
    ("strides", "dilations", "pads", "auto_pad"),
    [
        ((1, 1), (1, 1), (0, 0, 0, 0), "NOTSET"),
        ((2, 1), (1, 2), (1, 0, 2, 1), "NOTSET"),
        ((2, 2), (1, 1), (0, 0, 0, 0), "SAME_UPPER"),
    ],
)
def test_weights_times_inputs_are_the_outputs_of_a_convolution(
    rng, groups, strides, dilations, pads, auto_pad
):
    x = rng.integers(0, 9, (2, 4, 8, 7)).astype(np.float32)
    weight = rng.integers(-5, 5, (6, 4 // groups, 3, 2)).astype(np.float32)
    given = {"strides": strides, "dilations": dilations, "group": groups}
    given |= {"auto_pad": auto_pad} if auto_pad != "NOTSET" else {"pads": pads}
    node = helper.make_node("Conv", ["x", "w"], ["y"], **given)
    info = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None) for n in ("x", "w", "y")]
    graph = helper.make_graph([node], "g", info[:2], info[2:])
    made = ReferenceEvaluator(helper.make_model(graph)).run(None, {"x": x, "w": weight})[0]
    window = Window((3, 2), strides, dilations, pads, auto_pad)
    layer = Layer("y", "x", groups, weight[0].size, window)

    at = positions(made, layer, 11, 3)
    inner = inputs_at(x + 5, 5, layer, at)

    product = weight.reshape(groups, 6 // groups, -1) @ inner.transpose(0, 2, 1)
    assert len(set(at)) == 11
    np.testing.assert_array_equal(product, outputs_at(made, layer, at))


def test_rows_of_a_product_are_its_inputs(rng):
    x, weight = rng.integers(0, 9, (2, 3, 5)), rng.integers(0, 9, (5, 4))
    made = x @ weight
    layer = Layer("y", "x", 1, 5)

    at = positions(made, layer, 100, 0)

    np.testing.assert_array_equal(
        weight.T @ inputs_at(x, 0, layer, at)[0].T, outputs_at(made, layer, at)[0]
    )
