from __future__ import annotations

import numpy as np
import pytest

from qtool import _native, hessian
from qtool.quant.moments import Moments, fit


def collected(rng, change, noise, *, n=2000, unit=2.0**-12):
    """Moments of a layer whose weights should be other by `change`, but for noise."""
    groups, channels, depth = change.shape
    moments = Moments(groups, channels, depth, unit)
    for sample in range(4):
        x = rng.integers(0, 50, (groups, n, depth)).astype(float)
        missing = change @ x.transpose(0, 2, 1) + noise * rng.standard_normal((groups, channels, n))
        moments.add(sample % 2, moments.of(x, missing + 0.5))
    return moments


def test_the_change_that_explains_what_is_missing_is_found(rng):
    change = rng.standard_normal((2, 3, 5)) * 0.01

    found = fit(collected(rng, change, 0.01), centre=True)

    np.testing.assert_allclose(found.change, change, rtol=0.02, atol=1e-4)
    np.testing.assert_allclose(found.missing - np.einsum("gck,gk->gc", change, found.mean), 0.5,
                               atol=0.01)  # fmt: skip


def test_what_does_not_carry_over_to_other_samples_changes_nothing(rng):
    moments = Moments(1, 2, 40, 1.0)
    for fold in range(2):
        moments.add(fold, moments.of(rng.standard_normal((1, 50, 40)),
                                     rng.standard_normal((1, 2, 50)) * 100))  # fmt: skip

    found = fit(moments, centre=True)

    assert found.ridge is None
    assert not found.change.any()


@pytest.mark.parametrize(("n", "low", "high"), [(20, 0.1, 0.8), (20_000, 0.95, 1.0)])
def test_correlations_of_few_positions_count_for_less(rng, n, low, high):
    mixed = rng.standard_normal((30, 30)) * np.exp2(-np.arange(30) / 4)
    moments = Moments(1, 1, 30, 1.0)
    for fold in range(2):
        x = rng.standard_normal((1, n, 30)) @ mixed.T
        moments.add(fold, moments.of(x, np.zeros((1, 1, n))))

    found = fit(moments, centre=False)

    whole = moments.h.sum(0)[0, :-1, :-1]
    share = found.h[0] / whole
    np.testing.assert_allclose(np.diagonal(share), 1)
    assert low <= share[0, 1] <= high
    np.testing.assert_allclose(share[~np.eye(30, dtype=bool)], share[0, 1])


def test_one_sample_alone_is_believed(rng):
    moments = Moments(1, 1, 5, 1.0)
    moments.add(0, moments.of(rng.standard_normal((1, 50, 5)), np.zeros((1, 1, 50))))

    found = fit(moments, centre=False)

    np.testing.assert_array_equal(found.h, moments.h[0][:, :-1, :-1])


def test_sums_are_the_same_in_any_order(rng):
    parts = [(rng.integers(-255, 255, (1, 300, 7)).astype(float),
              rng.standard_normal((1, 2, 300))) for _ in range(5)]  # fmt: skip
    one, other = (Moments(1, 2, 7, 2.0**-18) for _ in range(2))

    for x, e in parts:
        one.add(0, one.of(x, e))
    for x, e in reversed(parts):
        order = rng.permutation(300)
        other.add(0, other.of(x[:, order], e[:, :, order]))

    np.testing.assert_array_equal(one.h, other.h)
    np.testing.assert_array_equal(one.r, other.r)


@pytest.mark.parametrize("n", [1, 2, 17, 40])
def test_rows_are_solved(rng, n):
    a = rng.standard_normal((n, 2 * n))
    h, rows = a @ a.T + np.eye(n), rng.standard_normal((3, n))

    solved = _native.solve_rows(hessian.inverse_factor(h), rows)

    np.testing.assert_allclose(solved @ h, rows, atol=1e-8)
