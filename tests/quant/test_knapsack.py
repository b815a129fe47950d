from __future__ import annotations

from itertools import pairwise, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qtool.quant.knapsack import Choice, best, cost, frontier, loss, sizes

NUMBERS = st.integers(0, 40).map(float)
LAYERS = st.dictionaries(
    st.sampled_from("abcd"),
    st.lists(st.builds(Choice, st.just("w8"), NUMBERS, NUMBERS), min_size=1, max_size=4),
    min_size=1,
)


def every(layers):
    return [dict(zip(layers, taken, strict=True)) for taken in product(*layers.values())]


@given(LAYERS)
def test_no_assignment_of_the_frontier_is_beaten(layers):
    for found in frontier(layers):
        assert not any(
            loss(other) < loss(found) and cost(other) <= cost(found) for other in every(layers)
        )


@given(LAYERS)
def test_the_frontier_goes_from_the_least_loss_to_the_least_cost(layers):
    path = frontier(layers)

    assert loss(path[0]) == min(map(loss, every(layers)))
    assert cost(path[-1]) == min(map(cost, every(layers)))
    assert all(cost(b) < cost(a) and loss(b) >= loss(a) for a, b in pairwise(path))


@given(LAYERS, st.integers(1, 160))
def test_the_best_within_a_budget_is_that_of_all_assignments(layers, budget):
    within = [a for a in every(layers) if cost(a) <= budget - 0.1 * len(layers)]

    found = best(layers, budget)

    if within:
        assert found is not None
        assert loss(found) <= min(map(loss, within))
    assert found is None or cost(found) <= budget


def test_a_budget_below_the_cheapest_has_no_assignment():
    assert best({"a": [Choice("w8", 0, 10)]}, 5) is None


def test_equal_choices_take_one_step_each():
    layers = {name: [Choice("w8", 0, 8), Choice("w4", 1, 4)] for name in "abc"}

    assert [cost(a) for a in frontier(layers)] == pytest.approx([24, 20, 16, 12])


@given(LAYERS)
def test_sizes_grow_in_loss_and_end_at_the_least_cost(layers):
    path = sizes(layers, 0.9)

    assert cost(path[-1]) == cost(frontier(layers)[-1])
    assert [loss(a) for a in path] == sorted(loss(a) for a in path)


def test_sizes_lie_between_those_of_the_frontier():
    layers = {
        name: [Choice("w8", 0, 8 * size), Choice("w4", size, 4 * size)]
        for name, size in (("a", 10), ("b", 1), ("c", 4))
    }

    assert {cost(a) for a in frontier(layers)} < {cost(a) for a in sizes(layers, 0.97)}
