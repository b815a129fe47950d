from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from qtool import hessian
from qtool.errors import ModelError
from qtool.statistics.gram import Gram, Layer, Window


def positive(rng, n):
    x = rng.standard_normal((2 * n, n))
    return x.T @ x


@pytest.mark.parametrize("n", [1, 2, 15, 16, 17, 33, 70])
def test_inverse_factor_is_the_root_of_the_inverse(rng, n):
    h = positive(rng, n)

    u = hessian.inverse_factor(h)

    np.testing.assert_allclose(u.T @ u @ h, np.eye(n), atol=1e-8)
    assert np.array_equal(u, np.triu(u))


def test_a_matrix_that_is_not_positive_definite_is_refused():
    with pytest.raises(ModelError, match="damp it"):
        hessian.inverse_factor(np.zeros((2, 2)))


def test_damping_makes_any_gram_matrix_invertible():
    h = np.zeros((2, 3, 3))
    h[0, 0, 0] = 1.0

    for group in hessian.damped(h):
        hessian.inverse_factor(group)


def gram_of(x, layer):
    gram = Gram(layer)
    gram.update(x)
    return hessian.matrix(gram.finish())


def test_output_error_is_that_of_the_layer(rng):
    x = rng.standard_normal((1, 4, 5, 5)).astype(np.float32)
    window = Window((1, 1), (1, 1), (1, 1), (0, 0, 0, 0))
    w, other = rng.standard_normal((2, 2, 3, 2))  # 2 groups of 3 channels

    full = gram_of(x, Layer("y", "x", 2, 2, window))

    y, changed = (np.einsum("gck,gkp->gcp", v, x.reshape(2, 2, 25)) for v in (w, other))
    wanted = np.square(y - changed).sum(-1)
    np.testing.assert_allclose(hessian.output_error(w, other, full[:, :-1, :-1]), wanted)


def test_centred_is_the_error_that_the_best_bias_leaves(rng):
    x = (rng.standard_normal((50, 3)) + 2).astype(np.float32)
    w, other = rng.standard_normal((2, 1, 4, 3))

    full = gram_of(x, Layer("y", "x", 1, 3))

    error = (w - other)[0] @ x.T
    wanted = np.square(error - error.mean(1, keepdims=True)).sum(1)
    np.testing.assert_allclose(hessian.output_error(w, other, hessian.centred(full))[0], wanted)


@pytest.mark.parametrize(
    ("op_type", "attributes", "shape"),
    [
        ("Conv", {"group": 2}, (4, 3, 2, 2)),
        ("Gemm", {"transB": 1}, (4, 3)),
        ("Gemm", {}, (3, 4)),
        ("MatMul", {}, (3, 4)),
    ],
)
def test_rows_go_back_to_the_weight(op_type, attributes, shape, rng):
    node = ir.node(op_type, [ir.Value(name="x"), ir.Value(name="w")], attributes)
    weight = rng.standard_normal(shape)

    rows = hessian.rows_of(node)

    assert rows.of(weight).shape[0] == attributes.get("group", 1)
    np.testing.assert_array_equal(rows.back(rows.of(weight), shape), weight)
