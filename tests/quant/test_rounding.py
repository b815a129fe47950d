from __future__ import annotations

import numpy as np
import pytest

from qtool import hessian
from qtool.quant.rounding import ROUNDINGS
from qtool.quant.rounding.form import Form
from qtool.quant.rounding.grid import Grid


def layer(rng, rows=6, n=40, scale=0.1):
    x = rng.standard_normal((3 * n, 5)) @ rng.standard_normal((5, n))  # few directions matter
    x += 0.1 * rng.standard_normal(x.shape)
    weight = rng.standard_normal((rows, n)) * 0.3
    grid = Grid(np.full(weight.shape, scale), np.zeros(weight.shape), -7, 7)
    return weight, hessian.damped((x.T @ x)[None])[0], grid


def errors(weight, h, grid, q):
    return hessian.output_error(weight[None], grid.real(q)[None], h[None])[0]


@pytest.mark.parametrize("rounding", ROUNDINGS.values(), ids=list(ROUNDINGS))
def test_integers_stay_within_the_limits(rounding, rng):
    weight, h, grid = layer(rng, scale=0.02)

    q = rounding(weight, Form(h), grid)

    assert np.array_equal(q, np.rint(q))
    assert q.min() == -7
    assert q.max() == 7


def test_each_method_errs_less_than_the_one_before(rng):
    weight, h, grid = layer(rng, rows=40, scale=0.2)

    totals = [errors(weight, h, grid, r(weight, Form(h), grid)).sum() for r in ROUNDINGS.values()]

    assert totals[1] < 0.5 * totals[0]
    assert totals[2] < totals[1]


def test_after_descent_no_single_step_helps(rng):
    weight, h, grid = layer(rng, rows=2, n=12)

    q = ROUNDINGS["descent"](weight, Form(h), grid)

    least = errors(weight, h, grid, q)
    for k in range(12):
        for step in (-1, 1):
            moved = q.copy()
            moved[:, k] = np.clip(moved[:, k] + step, -7, 7)
            assert (errors(weight, h, grid, moved) >= least * (1 - 1e-5)).all()


@pytest.mark.parametrize("rounding", ROUNDINGS.values(), ids=list(ROUNDINGS))
def test_a_row_does_not_depend_on_its_neighbours(rounding, rng):
    weight, h, grid = layer(rng)
    half = Grid(grid.scale[:3], grid.zero[:3], grid.low, grid.high)

    np.testing.assert_array_equal(
        rounding(weight, Form(h), grid)[:3], rounding(weight[:3], Form(h), half)
    )


def test_weights_on_the_grid_stay(rng):
    weight, h, grid = layer(rng)
    exact = grid.real(np.clip(np.rint(weight / grid.scale), -7, 7))

    for rounding in ROUNDINGS.values():
        np.testing.assert_array_equal(grid.real(rounding(exact, Form(h), grid)), exact)
