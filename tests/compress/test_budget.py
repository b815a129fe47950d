from __future__ import annotations

import pytest

from qtool.compress.budget import allocate, solve


@pytest.mark.parametrize("wanted", [120.0, 300.0, 790.0])
def test_a_linear_size_is_met_in_few_trials(wanted):
    asked = []

    def size(x):
        asked.append(x)
        return 100 * x + 7

    x = solve(size, wanted, 5.0, slope=60.0, tolerance=0.01)

    assert wanted * 0.99 <= size(x) <= wanted
    assert len(asked) <= 6


def test_a_flat_start_is_left():
    x = solve(lambda x: min(100.0 * max(x, 0), 800.0), 400.0, 60.0, slope=50.0, tolerance=0.01)

    assert 396 <= 100 * x <= 400


def test_bits_follow_the_cost():
    bits = allocate([1.0, 16.0], [10, 10], 4.0, 8.0)

    assert bits == pytest.approx([3.0, 5.0], abs=1e-3)


def test_bits_stay_inside_their_range():
    assert allocate([1e-9, 1.0], [10, 10], 4.5, 8.0) == pytest.approx([1.0, 8.0], abs=1e-3)
