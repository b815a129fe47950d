from __future__ import annotations

import numpy as np
import pytest

from qtool import _native
from qtool.compress.grid import LEVELS, LIMIT, to_grid
from qtool.compress.hessian import factor, from_gram, without_statistics


def inputs(rng, depth=24, n=500):
    x = rng.normal(size=(n, depth)) @ rng.normal(size=(depth, depth))
    return np.hstack([x, np.ones((n, 1))])


def hessian(rng, depth=24):
    x = inputs(rng, depth)
    return from_gram((x.T @ x)[None], len(x), len(x))


def test_the_factor_gives_the_matrix_back(rng):
    x = inputs(rng, 150)[:, :-1]
    matrix = x.T @ x + np.eye(150)

    r = factor(matrix)

    assert np.allclose(np.triu(r), r)
    np.testing.assert_allclose(r @ r.T, matrix, rtol=1e-9, atol=1e-6)


def test_an_indefinite_matrix_is_made_definite():
    r = factor(np.array([[1.0, 2], [2, 1]]))

    assert np.all(np.diag(r) > 0)


def test_coarser_grids_take_fewer_bits_and_err_more(rng):
    known, rows = hessian(rng), rng.normal(size=(1, 32, 24))

    fine, coarse = (to_grid(rows, known, slope) for slope in (1e-3, 1e-1))

    assert coarse.bits < fine.bits
    assert coarse.error > fine.error


def test_the_error_is_what_the_hessian_says(rng):
    known, rows = hessian(rng), rng.normal(size=(1, 8, 24))

    found = to_grid(rows, known, 0.05)

    error = rows - found.rows
    exact = np.einsum("gck,gkl,gcl->", error, known.regular, error)
    assert found.error == pytest.approx(exact, rel=1e-6)


def test_rounding_for_bits_beats_rounding_to_the_nearest_at_its_rate(rng):
    known, rows = hessian(rng), rng.standard_t(4, size=(1, 64, 24))
    found = to_grid(rows, known, 0.3)
    nearest = np.round(rows / found.steps[..., None]) * found.steps[..., None]

    error = rows - nearest

    assert found.error < np.einsum("gck,gkl,gcl->", error, known.regular, error)


def test_a_row_with_a_large_weight_gets_steps_that_reach_it(rng):
    rows = rng.normal(size=(1, 4, 24))
    rows[0, 2, 5] = 1e4

    found = to_grid(rows, without_statistics(1, 24), 1e-6)

    assert np.abs(found.integers).max() <= LIMIT
    assert found.rows[0, 2, 5] == pytest.approx(1e4, rel=0.02)


@pytest.mark.parametrize("rows", [np.zeros((1, 3, 4)), np.full((1, 3, 4), 1e-30)])
def test_rows_of_nothing_are_kept(rows):
    found = to_grid(rows, without_statistics(1, 4), 0.1)

    assert np.all(np.abs(found.rows) <= 1e-29)


def test_few_samples_shrink_towards_the_diagonal(rng):
    x = inputs(rng, 24, n=20)
    full = (x.T @ x)[None]

    few, many = from_gram(full, 20, 20), from_gram(full * 1e6, 20_000_000, 20_000_000)

    off = ~np.eye(24, dtype=bool)
    ratio = np.abs(few.regular[0][off]).sum() / np.abs(many.regular[0][off]).sum()
    assert ratio == pytest.approx(20 / 44, rel=0.01)


def descended(rng, passes, mask=None):
    """Return weights, H, indices, costs and the price of bits after some passes."""
    x = inputs(rng, 20)[:, :-1]
    h, rows = x.T @ x / len(x), 9 * rng.normal(size=(6, 20))
    bits, indices = np.abs(LEVELS), (np.round(rows) + LIMIT).astype(np.int32)
    costs, lambdas = np.empty(6), np.full(6, 0.05)
    if mask is not None:
        indices[mask == 0] = LIMIT
    _native.descend(rows, h, np.ones(6), lambdas, LEVELS, bits, LIMIT, indices, costs, mask, passes)
    return rows, h, indices, costs, costs.sum() + 0.05 * bits[indices].sum()


def test_descent_lowers_error_and_price_and_says_the_error(rng):
    seed = rng.bit_generator.state

    before = descended(rng, 0)[-1]
    rng.bit_generator.state = seed
    rows, h, indices, costs, after = descended(rng, 20)

    assert after < 0.95 * before
    error = rows - LEVELS[indices]
    np.testing.assert_allclose(costs, np.einsum("ck,kl,cl->c", error, h, error), rtol=1e-9)


def test_descent_leaves_masked_weights_at_zero(rng):
    mask = (rng.random((6, 20)) < 0.5).astype(np.uint8)

    indices = descended(rng, 20, mask)[2]

    assert np.all(indices[mask == 0] == LIMIT)


@pytest.mark.parametrize("bad", [-1, LEVELS.size])
def test_descent_refuses_indices_that_are_no_levels(bad):
    one, indices = np.ones(1), np.full((1, 1), bad, np.int32)

    with pytest.raises(ValueError, match="no level"):
        _native.descend(
            np.ones((1, 1)), np.ones((1, 1)), one, one, LEVELS, LEVELS, LIMIT, indices, one, None, 1
        )
