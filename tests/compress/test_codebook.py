from __future__ import annotations

import numpy as np
import pytest

from qtool.compress.codebook import INITS, kmeans, nearest, optimal, points, share
from qtool.compress.hessian import from_gram, without_statistics


def squared_error(values, centroids):
    return float(np.sum((values - centroids[nearest(values, centroids)]) ** 2.0))


def exhaustive(values, k):
    """Return the least squared error over all ways to cut the sorted values into k runs."""
    ordered = np.sort(values).astype(np.float64)
    n = len(ordered)
    cost = np.array([
        [((ordered[i:j] - ordered[i:j].mean()) ** 2).sum() if j > i else np.inf
         for j in range(n + 1)] for i in range(n)
    ])  # fmt: skip
    best = cost[0]
    for _ in range(1, k):
        best = np.array([min(best[i] + cost[i, j] for i in range(n)) for j in range(n + 1)])
    return best[n]


@pytest.mark.parametrize("k", [2, 3, 5, 8])
def test_kmeans_is_optimal_on_few_values(rng, k):
    values = rng.standard_t(3, 40).astype(np.float32)

    found = squared_error(values, kmeans(values, k))

    assert found == pytest.approx(exhaustive(values, k), rel=1e-4)


def test_the_histogram_costs_less_than_three_per_mille(rng):
    values = rng.standard_t(4, 70_000).astype(np.float32)
    few = values[:65_000]  # sorted as they are
    exact = squared_error(few, kmeans(few, 64)) / few.size

    found = squared_error(values, kmeans(values, 64)) / values.size

    assert found <= exact * 1.05
    coarse = np.concatenate([few, few[:1000]])  # the same values through the histogram
    assert squared_error(few, kmeans(coarse, 64)) / few.size <= exact * 1.003


@pytest.mark.parametrize("init", INITS)
def test_every_start_gives_ascending_centroids_near_the_optimum(rng, init):
    values = rng.normal(size=5000).astype(np.float32)

    centroids = kmeans(values, 8, init=init)

    assert np.all(np.diff(centroids) > 0)
    assert squared_error(values, centroids) <= 1.2 * squared_error(values, kmeans(values, 8))


def test_weights_draw_the_centroids(rng):
    values = np.array([0.0, 1.0, 10.0, 11.0], np.float32)

    heavy = optimal(points(values, np.array([1, 1000, 1, 1], np.float32)), 2)

    assert heavy[0] == pytest.approx(1000 / 1001)


def test_fewer_values_than_clusters_are_kept_exactly():
    values = np.array([3.0, 1.0, 3.0, 2.0], np.float32)

    assert kmeans(values, 16).tolist() == [1, 2, 3]


def test_zero_is_pinned(rng):
    values = rng.normal(size=500).astype(np.float32)

    assert 0 in kmeans(values, 7, zero=True)


def gram(rng, depth, n=400):
    mixed = rng.normal(size=(n, depth // 4)) @ rng.normal(size=(depth // 4, depth))
    mixed += rng.normal(size=(n, depth)) / 5
    x = np.hstack([mixed, np.ones((n, 1))])
    return from_gram((x.T @ x)[None], n, n)


def test_feedback_makes_the_output_error_several_times_smaller(rng):
    hessian, rows = gram(rng, 32), rng.normal(size=(1, 16, 32))
    centroids = kmeans(rows.astype(np.float32), 16).astype(np.float64)
    plain = centroids[nearest(rows.astype(np.float32), centroids.astype(np.float32))]

    found = share(rows, hessian, centroids)

    error = rows - plain
    assert found.error < 0.5 * np.einsum("gck,gkl,gcl->", error, hessian.regular, error)


def test_the_error_of_shared_rows_is_what_the_hessian_says(rng):
    hessian, rows = gram(rng, 12), rng.normal(size=(1, 5, 12))

    found = share(rows, hessian, np.linspace(-3, 3, 9))

    error = rows - found.rows
    exact = np.einsum("gck,gkl,gcl->", error, hessian.regular, error)
    assert found.error == pytest.approx(exact, rel=1e-6)


def test_masked_weights_stay_zero(rng):
    rows = rng.normal(size=(1, 4, 10))
    mask = (rng.random(rows.shape) > 0.5).astype(np.uint8)

    found = share(rows, without_statistics(1, 10), np.array([-1.0, 0, 1]), mask=mask)

    assert np.all(found.rows[mask == 0] == 0)
