from __future__ import annotations

import numpy as np
import pytest
from quant.graphs import conv_net, model_of, node, ops

from qtool.model import array
from qtool.qparams import from_range
from qtool.quant import qdq
from qtool.quant.plan import plan
from qtool.quant.weights import WEIGHT_METHODS
from qtool.runtime.ort import OrtSession


def scheme(dtype="uint8"):
    def choose(weight, axis, users):
        return WEIGHT_METHODS["minmax"](
            weight, dtype="int8", axis=axis, symmetric=True, narrow=True
        )

    return qdq.Scheme(dtype, activation_symmetric=False, choose_weight=choose)


def quantized(model, x, dtype="uint8", **options):
    """Return the model quantized with the exact ranges that x gives."""
    made = plan(model, **options)
    names = list(dict.fromkeys(v.name for g in made.groups for v in g.observed))
    seen = OrtSession(model, outputs=names).run({"x": x})
    qparams = []
    for group in made.groups:
        values = np.concatenate([seen[v.name].ravel() for v in group.observed])
        fixed = qdq.fixed_qparams(group)
        qparams.append(fixed or from_range(values.min(), values.max(), dtype))
    result = model.copy()
    notes = qdq.insert(result.graph, plan(result, **options), qparams, scheme(dtype))
    return result, notes


def sqnr(reference, found):
    noise = float(np.mean((reference - found) ** 2))
    return 10 * np.log10(float(np.mean(reference**2)) / noise)


def run(model, x):
    return next(iter(OrtSession(model).run({"x": x}).values()))


@pytest.fixture
def x(rng):
    return rng.normal(size=(4, 3, 8, 8)).astype(np.float32)


def test_the_quantized_model_computes_nearly_the_same(rng, x):
    model = conv_net(rng)

    result, _ = quantized(model, x)

    assert sqnr(run(model, x), run(result, x)) > 25


def test_a_relu_disappears_into_the_range_of_its_output(rng, x):
    result, _ = quantized(conv_net(rng), x)

    assert "Relu" not in ops(result)
    assert node(result, "r").op_type == "Conv"


def test_a_clip_wider_than_the_range_stays(rng):
    model = model_of(
        """
        net (float[1,2,4,4] x, float[2,2,1,1] w, float lo, float hi) => (float[1,2,4,4] y) {
            a = Conv(x, w)
            b = Clip(a, lo, hi)
            c = Concat<axis = 2>(b, x)
            y = Conv(c, w)
        }
        """,
        w=rng.normal(size=(2, 2, 1, 1)).astype(np.float32),
        lo=np.float32(0.0),
        hi=np.float32(0.5),
    )
    x = rng.normal(size=(1, 2, 4, 4)).astype(np.float32)

    result, _ = quantized(model, x)

    assert "Clip" in ops(result)
    assert sqnr(run(model, x), run(result, x)) > 25


def test_weights_are_int8_within_127_and_biases_int32(rng, x):
    result, _ = quantized(conv_net(rng), x)

    conv = node(result, "r")
    weight, bias = (array(conv.inputs[i].producer().inputs[0]) for i in (1, 2))
    assert weight.dtype == np.int8
    assert np.abs(weight.astype(int)).max() == 127
    assert bias.dtype == np.int32


def test_the_bias_scale_is_the_product_of_input_and_weight_scale(rng, x):
    result, _ = quantized(conv_net(rng), x)

    conv = node(result, "r")
    scales = [array(conv.inputs[i].producer().inputs[1]) for i in range(3)]
    np.testing.assert_array_equal(scales[2], scales[0] * scales[1])


def test_tensors_of_a_group_share_one_scale_initializer(rng, x):
    result, _ = quantized(conv_net(rng), x)

    pool = next(n for n in result.graph if n.op_type == "MaxPool")
    before, after = pool.inputs[0].producer(), pool.outputs[0].consumers()[0]
    assert before.inputs[1] is after.inputs[1]


def test_a_shared_weight_stays_one_tensor(rng):
    model = model_of(
        """
        net (float[1,2,4,4] x, float[2,2,1,1] w) => (float[1,2,4,4] y) {
            a = Conv(x, w)
            y = Conv(a, w)
        }
        """,
        w=rng.normal(size=(2, 2, 1, 1)).astype(np.float32),
    )

    result, _ = quantized(model, rng.normal(size=(1, 2, 4, 4)).astype(np.float32))

    weights = [v for v in result.graph.initializers.values() if v.const_value.size == 4]
    assert [array(w).dtype for w in weights] == [np.int8]


def test_a_huge_bias_widens_the_scale_of_its_channel_and_says_so(rng):
    model = model_of(
        """
        net (float[1,2,4,4] x, float[2,2,1,1] w, float[2] b) => (float[1,2,4,4] y) {
            a = Conv(x, w, b)
            y = Conv(a, w)
        }
        """,
        w=np.array([1e-3, 2e-3, 1, 2], np.float32).reshape(2, 2, 1, 1),
        b=np.array([5e4, 1], np.float32),
    )
    x = rng.normal(size=(1, 2, 4, 4)).astype(np.float32)

    result, notes = quantized(model, x)

    assert notes == ["a: widened the weight scale of 1 channels so that the int32 bias fits"]
    assert sqnr(run(model, x), run(result, x)) > 25


def test_a_grouped_transposed_convolution_shares_scales_between_groups(rng):
    model = model_of(
        """
        net (float[1,4,4,4] x, float[4,3,2,2] w, float[6] b) => (float[1,6,4,4] y) {
            a = ConvTranspose<group = 2, kernel_shape = [2,2], strides = [2,2]>(x, w, b)
            y = MaxPool<kernel_shape = [2,2], strides = [2,2]>(a)
        }
        """,
        w=rng.normal(size=(4, 3, 2, 2)).astype(np.float32),
        b=rng.normal(size=6).astype(np.float32),
    )
    x = rng.normal(size=(1, 4, 4, 4)).astype(np.float32)

    result, _ = quantized(model, x)

    assert sqnr(run(model, x), run(result, x)) > 25


def test_qdq_that_is_there_is_kept(rng, x):
    model = conv_net(rng)
    first, _ = quantized(model, x)

    second, _ = quantized(first, x)

    assert ops(second) == ops(first)
    np.testing.assert_array_equal(run(second, x), run(first, x))


def test_an_output_of_the_model_keeps_its_name(rng, x):
    result, _ = quantized(conv_net(rng), x, integer_outputs=True)

    assert [v.name for v in result.graph.outputs] == ["y"]
    assert result.graph.outputs[0].producer().op_type == "DequantizeLinear"


def test_the_argument_is_not_edited(rng, x):
    model = conv_net(rng)
    before = ops(model)

    quantized(model, x)

    assert ops(model) == before
