from __future__ import annotations

import numpy as np
import pytest

from qtool.compress.hessian import from_gram, without_statistics
from qtool.compress.knapsack import Entry, choose
from qtool.compress.patterns import parse
from qtool.compress.pruners import PRUNERS
from qtool.errors import UsageError

PATTERNS = ("unstructured", "2:4", "block16x4", "block1x4")


def hessian(rng, depth):
    x = rng.normal(size=(800, depth // 3)) @ rng.normal(size=(depth // 3, depth))
    x *= np.exp(rng.normal(size=depth))
    x += rng.normal(size=x.shape) / 2
    x = np.hstack([x, np.ones((800, 1))])
    return from_gram((x.T @ x)[None], 800, 800)


def error(rows, found, known):
    return np.einsum("gck,gkl,gcl->", rows - found, known.regular, rows - found)


@pytest.mark.parametrize("method", PRUNERS)
@pytest.mark.parametrize("pattern", PATTERNS)
def test_half_of_the_weights_go(rng, method, pattern):
    rows = rng.normal(size=(1, 32, 64))

    found = PRUNERS[method](rows, hessian(rng, 64), parse(pattern), 0.5)

    assert np.mean(found == 0) == pytest.approx(0.5, abs=0.01)


def test_n_of_m_holds_in_every_group(rng):
    found = PRUNERS["obs"](rng.normal(size=(1, 8, 40)), hessian(rng, 40), parse("1:4"), 0.75)

    assert np.all((found.reshape(8, 10, 4) != 0).sum(2) == 1)


def test_blocks_go_whole(rng):
    found = PRUNERS["obs"](rng.normal(size=(1, 32, 40)), hessian(rng, 40), parse("block16x4"), 0.5)

    blocks = (found == 0).reshape(2, 16, 10, 4).mean((1, 3))
    assert set(np.unique(blocks)) == {0.0, 1.0}


def test_compensation_beats_magnitude_threefold(rng):
    known, rows = hessian(rng, 64), rng.normal(size=(1, 48, 64))

    found = {
        name: error(rows, PRUNERS[name](rows, known, parse("unstructured"), 0.5), known)
        for name in PRUNERS
    }

    assert found["obs"] < found["magnitude"] / 3
    assert found["wanda"] < found["magnitude"]


def test_the_refit_is_the_least_squares_solution(rng):
    known, rows = hessian(rng, 24), rng.normal(size=(1, 3, 24))
    found = PRUNERS["obs"](rows, known, parse("unstructured"), 0.6)
    h = known.regular[0]

    for row, pruned in zip(rows[0], found[0], strict=True):
        kept = pruned != 0
        exact = np.linalg.solve(h[np.ix_(kept, kept)], h[kept] @ row)
        np.testing.assert_allclose(pruned[kept], exact, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["2:2", "0:4", "4:2", "block3x3", "2:9999", ""])
def test_impossible_patterns_are_refused(name):
    with pytest.raises(UsageError, match="pattern"):
        parse(name)


def test_without_statistics_inputs_are_independent():
    assert np.array_equal(without_statistics(2, 3).matrix, np.broadcast_to(np.eye(3), (2, 3, 3)))


def test_the_knapsack_takes_what_costs_least():
    cheap = [Entry(0, 10, 0), Entry(1, 5, 0.1), Entry(2, 1, 5)]
    dear = [Entry(0, 10, 0), Entry(1, 5, 3), Entry(2, 1, 9)]

    assert [e.value for e in choose([cheap, dear], 15)] == [1, 0]
    assert [e.value for e in choose([cheap, dear], 100)] == [0, 0]
    assert [e.value for e in choose([cheap, dear], 0)] == [2, 2]
