from __future__ import annotations

from math import comb, sqrt

import numpy as np
import pytest

from qtool.metrics import METRICS, difference
from qtool.metrics._intervals import (
    Z,
    beta_cdf,
    bootstrap,
    clopper_pearson,
    mcnemar,
    paired,
    tango,
)


def binomial_tail(k, n, p):
    """P(X >= k)"""
    return sum(comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k, n + 1))


@pytest.mark.parametrize("k", [1, 3, 17, 40])
@pytest.mark.parametrize("p", [0.01, 0.3, 0.5, 0.97])
def test_beta_cdf_is_the_binomial_tail(k, p):
    assert beta_cdf(p, k, 40 - k + 1) == pytest.approx(binomial_tail(k, 40, p), rel=1e-9)


@pytest.mark.parametrize("hits", [0, 1, 7, 29, 30])
def test_clopper_pearson_inverts_the_binomial_test(hits):
    low, high = clopper_pearson(hits, 30)

    if hits > 0:
        assert binomial_tail(hits, 30, low) == pytest.approx(0.025)
    if hits < 30:
        assert 1 - binomial_tail(hits + 1, 30, high) == pytest.approx(0.025)


@pytest.mark.parametrize(("b", "c"), [(0, 0), (5, 0), (2, 10), (300, 250)])
def test_mcnemar_is_the_exact_binomial_test(b, c):
    few, m = min(b, c), b + c
    expected = min(1.0, 2 * sum(comb(m, i) for i in range(few + 1)) / 2**m)

    assert mcnemar(b, c) == pytest.approx(expected)


def score(b, c, n, d):
    """Tango's statistic with the constrained maximum found by search, not by formula."""
    q = np.linspace(max(0, -d), (1 - d) / 2, 2_000_001)[1:-1]
    likelihood = b * np.log(q + d) + c * np.log(q) + (n - b - c) * np.log1p(-2 * q - d)
    best = q[np.argmax(likelihood)]
    return (b - c - n * d) / sqrt(n * (2 * best + d * (1 - d)))


@pytest.mark.parametrize(("b", "c", "n"), [(12, 2, 50), (20, 10, 1000), (3, 9, 40)])
def test_the_ends_of_tangos_interval_are_just_not_rejected(b, c, n):
    low, high = tango(b, c, n)

    assert score(b, c, n, low) == pytest.approx(Z, rel=1e-3)
    assert score(b, c, n, high) == pytest.approx(-Z, rel=1e-3)


def test_no_discordant_pairs_still_leave_doubt():
    low, high = paired(0, 0, 100)

    assert (low, high) == pytest.approx((-0.0369935, 0.0369935), abs=1e-6)


@pytest.mark.parametrize("n", [30, 2000])
@pytest.mark.parametrize(("b", "c"), [(5, 0), (6, 0), (9, 2), (10, 1), (20, 8), (1, 12)])
def test_the_paired_interval_leaves_zero_out_only_where_mcnemar_rejects(b, c, n):
    low, high = paired(b, c, n)

    assert low <= 0 <= high or mcnemar(b, c) < 0.05


@pytest.mark.parametrize(("b", "c"), [(0, 9), (9, 0), (4, 5), (0, 0)])
def test_the_paired_interval_holds_its_estimate_and_mirrors(b, c):
    low, high = paired(b, c, 9)

    assert -1 <= low <= (b - c) / 9 <= high <= 1
    assert paired(c, b, 9) == pytest.approx((-high, -low))


def test_tangos_interval_covers_the_truth_95_times_in_100():
    rng = np.random.default_rng(0)
    draws = rng.multinomial(200, [0.06, 0.03, 0.91], size=4000)
    pairs, counts = np.unique(draws[:, :2], axis=0, return_counts=True)

    covered = [low <= 0.03 <= high for low, high in (tango(b, c, 200) for b, c in pairs.tolist())]

    assert np.average(covered, weights=counts) == pytest.approx(0.95, abs=0.01)


def test_bootstrap_finds_the_interval_of_a_mean():
    values = np.random.default_rng(0).normal(size=400)

    low, high = bootstrap(lambda chosen: float(values[chosen].mean()), 400)

    half = 1.96 * values.std() / 20
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.02)


def test_bootstrap_gives_the_same_every_time():
    values = np.random.default_rng(0).normal(size=50)

    one, other = (bootstrap(lambda chosen: float(values[chosen].mean()), 50) for _ in range(2))

    assert one == other


@pytest.mark.parametrize("n", [0, 1])
def test_one_sample_has_no_bootstrap(n):
    assert bootstrap(lambda chosen: 1.0, n) is None


def test_a_drop_of_hits_counts_discordant_pairs():
    rows = np.array([1, 1, 0, 0, 0], np.float64)[:, None]
    reference = np.array([1, 0, 1, 1, 0], np.float64)[:, None]

    found = difference(METRICS["top1"], rows, reference)

    assert (found.value, found.reference, found.drop) == (40.0, 60.0, 20.0)
    assert found.discordant == (2, 1)
    assert found.p_value == 1.0


def test_a_rising_error_is_a_drop(rng):
    target = rng.normal(size=(50, 3))
    metric = METRICS["mse"]
    rows = [metric.rows(target + size, target) for size in (0.2, 0.1)]

    found = difference(metric, *rows)

    assert found.drop == pytest.approx(0.03)
    assert found.ci95[0] <= found.drop <= found.ci95[1]


def test_agreement_drops_from_100_percent():
    found = difference(METRICS["agreement"], np.array([[1.0]] * 9 + [[0.0]]), None)

    assert (found.value, found.drop) == (90.0, 10.0)
    assert found.ci95 == pytest.approx((0.25286, 44.502), rel=1e-3)


def test_sqnr_has_nothing_to_drop_from():
    assert difference(METRICS["sqnr"], np.array([[1.0, 0.1]]), None).drop is None
