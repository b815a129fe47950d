from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator

from qtool.errors import DataError, UsageError
from qtool.model import Model
from qtool.statistics.gram import Gram, gram_layers, matrix, merged


def model_of(text):
    return Model(ir.from_onnx_text(f'<ir_version: 8, opset_import: ["" : 17]> agraph {text}'))


def conv_model(shape, weight_shape, attributes="", rng=None):
    """Return y = Conv(x, w) with random weights."""
    inputs = f"float{list(shape)} x, float{list(weight_shape)} w"
    model = model_of(f"({inputs}) => (float y) {{ y = Conv {attributes} (x, w) }}")
    return bound(model, "w", rng.standard_normal(weight_shape, np.float32))


def bound(model, name, values):
    """Make an input of the model a constant."""
    value = next(v for v in model.graph.inputs if v.name == name)
    model.graph.inputs.remove(value)
    value.const_value = ir.Tensor(values, name=name)
    model.graph.register_initializer(value)
    return model


def energy_by_gram(model, x, weight):
    """Return per output channel the sum of y**2, from H alone: diag(w H w^T)."""
    (layer,) = gram_layers(model)
    gram = Gram(layer)
    gram.update(x)
    h = matrix(gram.finish())[:, :-1, :-1]
    w = weight.reshape(layer.groups, -1, layer.depth).astype(np.float64)
    return np.einsum("goi,gij,goj->go", w, h, w).ravel()


CONVS = [
    ((2, 3, 8, 7), (4, 3, 3, 3), "<pads=[1,1,1,1]>"),
    ((1, 3, 9, 8), (4, 3, 3, 2), "<strides=[2,3], pads=[0,1,2,1]>"),
    ((1, 4, 8, 8), (6, 2, 3, 3), "<group=2, dilations=[2,1]>"),
    ((1, 4, 9, 9), (4, 1, 3, 3), '<group=4, strides=[2,2], auto_pad="SAME_UPPER">'),
    ((1, 2, 7, 10), (3, 2, 2, 4), '<strides=[1,3], auto_pad="SAME_LOWER">'),
    ((1, 2, 7, 10), (3, 2, 2, 4), '<auto_pad="VALID">'),
    ((2, 3, 20), (4, 3, 5), "<strides=[2], pads=[2,1]>"),
    ((1, 2, 5, 6, 4), (3, 2, 2, 3, 2), "<pads=[1,0,1,0,1,0], strides=[2,1,1]>"),
]


@pytest.mark.parametrize(("shape", "weight_shape", "attributes"), CONVS)
def test_gram_predicts_the_energy_of_a_convolution(shape, weight_shape, attributes, rng):
    model = conv_model(shape, weight_shape, attributes, rng)
    weight = model.graph.initializers["w"].const_value.numpy()
    x = rng.standard_normal(shape, np.float32)

    energy = energy_by_gram(model, x, weight)

    (y,) = ReferenceEvaluator(ir.to_proto(model.ir)).run(None, {"x": x})
    axes = tuple(i for i in range(y.ndim) if i != 1)
    np.testing.assert_allclose(energy, np.square(y, dtype=np.float64).sum(axes), rtol=1e-5)


LINEAR = [
    ("(float[5,4] x, float[4,3] w) => (float y) { y = MatMul(x, w) }", (5, 4), (4, 3), -1),
    ("(float[2,5,4] x, float[4,3] w) => (float y) { y = MatMul(x, w) }", (2, 5, 4), (4, 3), -1),
    ("(float[2,4,5] x, float[3,4] w) => (float y) { y = MatMul(w, x) }", (2, 4, 5), (3, 4), -2),
    ("(float[5,4] x, float[4,3] w) => (float y) { y = Gemm(x, w) }", (5, 4), (4, 3), -1),
    ("(float[5,4] x, float[3,4] w) => (float y) { y = Gemm <transB=1> (x, w) }",
     (5, 4), (3, 4), -1),
    ("(float[4,5] x, float[4,3] w) => (float y) { y = Gemm <transA=1> (x, w) }", (4, 5), (4, 3), 0),
    ("(float[4,5] x, float[3,4] w) => (float y) { y = Gemm (w, x) }", (4, 5), (3, 4), 0),
    ("(float[5,4] x, float[4,3] w) => (float y) { y = Gemm <transA=1,transB=1> (w, x) }",
     (5, 4), (4, 3), -1),
]  # fmt: skip


@pytest.mark.parametrize(("text", "shape", "weight_shape", "axis"), LINEAR)
def test_gram_of_a_linear_layer_sums_along_its_depth(text, shape, weight_shape, axis, rng):
    model = bound(model_of(text), "w", rng.standard_normal(weight_shape, np.float32))
    x = rng.standard_normal(shape, np.float32)

    (layer,) = gram_layers(model)
    gram = Gram(layer)
    gram.update(x)

    rows = np.moveaxis(x, axis, -1).reshape(-1, 4).astype(np.float64)
    rows = np.concatenate([rows, np.ones((len(rows), 1))], axis=1)
    np.testing.assert_allclose(matrix(gram.finish())[0], rows.T @ rows, rtol=1e-12, atol=1e-12)


def test_layers_that_read_the_same_windows_agree(rng):
    model = model_of(
        "(float[1,2,6,6] x, float[3,2,3,3] w, float[5,2,3,3] v, float[5,2,1,1] u)"
        " => (float y, float z, float t) { y = Conv(x, w)  z = Conv(x, v)  t = Conv(x, u) }"
    )
    for name in "wvu":
        value = next(v for v in model.graph.inputs if v.name == name)
        bound(model, name, rng.standard_normal(value.shape.numpy()).astype(np.float32))

    y, z, t = gram_layers(model)

    assert [layer.name for layer in (y, z, t)] == ["y", "z", "t"]
    assert y.what == z.what != t.what


def test_products_of_two_activations_have_no_gram():
    model = model_of("(float[2,3] x, float[3,2] w) => (float y) { y = MatMul(x, w) }")

    assert gram_layers(model) == []


def some(rng, n=3):
    model = conv_model((1, 2, 6, 6), (3, 2, 3, 3), "", rng)
    (layer,) = gram_layers(model)
    arrays = [rng.standard_normal((1, 2, 6, 6), np.float32) for _ in range(n)]
    return layer, arrays


def summed(layer, arrays):
    gram = Gram(layer)
    for x in arrays:
        gram.update(x)
    return gram.finish()


@pytest.mark.parametrize("cut", [0, 1, 3])
def test_merging_shards_equals_one_run(cut, rng):
    layer, arrays = some(rng)
    whole = summed(layer, arrays)

    joined = merged([summed(layer, arrays[cut:]), summed(layer, arrays[:cut])])

    assert joined.values.tobytes() == whole.values.tobytes()
    assert replace(joined, values=None) == replace(whole, values=None)


def test_merging_adds_with_carry_and_sign(rng):
    layer, arrays = some(rng, 1)
    one = summed(layer, arrays)
    values = np.zeros_like(one.values)
    values[..., 0], values[..., 1] = 2**64 - 1, 2**64 - 1  # -1

    joined = merged([replace(one, values=values), replace(one, values=values)])

    assert (joined.values[..., 0] == 2**64 - 2).all()
    assert (joined.values[..., 1] == 2**64 - 1).all()


def test_merging_over_the_range_is_refused(rng):
    layer, arrays = some(rng, 1)
    one = summed(layer, arrays)
    values = np.zeros_like(one.values)
    values[..., 1] = 2**62
    large = replace(one, values=values)

    with pytest.raises(DataError, match="passes 127 bits"):
        merged([large, large])


def test_matrix_keeps_the_relative_precision_of_small_negative_sums(rng):
    layer, arrays = some(rng, 1)
    one = summed(layer, arrays)
    values = np.zeros_like(one.values)
    values[..., 0], values[..., 1] = np.uint64(2**64 - 3), np.uint64(2**64 - 1)  # -3

    assert (matrix(replace(one, values=values)) == -3 * 2.0**-63).all()


@pytest.mark.parametrize("shape", [(1, 2, 6), (1, 3, 6, 6), (6, 6), (1, 2, 6, 6, 6)])
def test_another_shape_is_refused(shape, rng):
    layer, _ = some(rng)

    with pytest.raises(DataError, match="does not fit 'y'"):
        Gram(layer).update(np.ones(shape, np.float32))


@pytest.mark.parametrize(
    ("value", "what"), [(np.nan, "72 of 72 values are NaN"), (3e38, "the sum of squares passes")]
)
def test_values_out_of_range_are_refused(value, what, rng):
    layer, _ = some(rng)

    with pytest.raises(DataError, match=what):
        Gram(layer).update(np.full((1, 2, 6, 6), value, np.float32))


def test_unknown_kernels_are_a_usage_error(rng):
    with pytest.raises(UsageError, match="no kernel"):
        Gram(some(rng)[0], "sse9")
