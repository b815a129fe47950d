"""The Gram kernels of every instruction set against a plain definition, bit for bit."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from qtool import _native

ISAS = _native.isas()
ONE, NONE = (1, 1, 1), (0, 0, 0)
ROWS = {"kernel": ONE, "strides": ONE, "dilations": ONE, "pads": NONE, "output": ONE}

finite = st.floats(-(2.0**20), 2.0**20, width=32)


def windows(x, groups, kernel, strides, dilations, pads, output):
    """Return the rows of each group, (groups, P, K + 1) in float64, window by window."""
    n, channels = x.shape[0], x.shape[1] // groups
    spread = [
        k + d * (k - 1) + s * o
        for k, d, s, o in zip(kernel, dilations, strides, output, strict=True)
    ]
    padded = np.pad(x, [(0, 0), (0, 0), *((p, p + e) for p, e in zip(pads, spread, strict=True))])
    rows = []
    for i, *at in np.ndindex(n, *output):
        start = [a * s for a, s in zip(at, strides, strict=True)]
        cut = [slice(b, b + k * d, d) for b, k, d in zip(start, kernel, dilations, strict=True)]
        window = padded[(i, slice(None), *cut)]
        rows.append(window.reshape(groups, -1))
    size = channels * int(np.prod(kernel))
    stacked = np.array(rows, np.float64).reshape(-1, groups, size).swapaxes(0, 1)
    return np.concatenate([stacked, np.ones((*stacked.shape[:2], 1))], axis=2)


def definition(calls):
    """Return the fixed-point sums as Python integers, [group][pair]."""
    total = 0
    for rows in calls:
        sums = np.zeros((rows.shape[0], rows.shape[2], rows.shape[2]))
        for p in range(rows.shape[1]):  # one position after the other, in double
            sums += rows[:, p, :, None] * rows[:, p, None, :]
        upper = sums[(slice(None), *np.triu_indices(rows.shape[2]))]
        total = total + np.vectorize(lambda v: round(Fraction(v) * 2**63), otypes="O")(upper)
    return total.tolist()


def integers(values):
    low, high = values[..., 0].astype("O"), values[..., 1].astype(np.int64).astype("O")
    return (high * 2**64 + low).tolist()


def gram(isa, groups, depth):
    if not ISAS[isa]:
        pytest.skip("this machine cannot run it")
    return _native.Gram(groups, depth, isa)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("depth", [1, 6, 7, 8, 9, 15, 16, 33])
@pytest.mark.parametrize("n_rows", [1, 5, 255, 257])
def test_rows_equal_the_definition(isa, depth, n_rows, rng):
    x = rng.standard_normal((n_rows, depth, 1, 1, 1), np.float32)

    matrix = gram(isa, 1, depth)
    assert matrix.update(x, **ROWS)

    count, values = matrix.state()
    assert (count, integers(values)) == (n_rows, definition([windows(x, 1, **ROWS)]))


GEOMETRIES = [
    # groups, channels, size, kernel, strides, dilations, pads, output
    (1, 3, (1, 7, 6), (1, 3, 3), (1, 1, 1), (1, 1, 1), (0, 1, 1), (1, 7, 6)),
    (1, 2, (1, 9, 9), (1, 3, 2), (1, 2, 3), (1, 2, 1), (0, 0, 2), (1, 3, 4)),
    (4, 4, (1, 6, 5), (1, 3, 3), (1, 2, 2), (1, 1, 1), (0, 1, 0), (1, 3, 2)),
    (2, 6, (1, 1, 30), (1, 1, 5), (1, 1, 2), (1, 1, 3), (0, 0, 4), (1, 1, 12)),
    (1, 2, (5, 4, 6), (2, 3, 2), (2, 1, 1), (1, 1, 2), (1, 1, 0), (3, 4, 4)),
    (3, 3, (4, 4, 4), (2, 2, 2), (1, 1, 1), (1, 1, 1), (0, 0, 0), (3, 3, 3)),
    (1, 1, (1, 2, 2), (1, 3, 3), (1, 1, 1), (1, 1, 1), (0, 5, 5), (1, 9, 9)),
]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_windows_equal_the_definition(isa, geometry, rng):
    groups, channels, size, kernel, strides, dilations, pads, output = geometry
    calls = [rng.standard_normal((n, channels, *size), np.float32) for n in (1, 2)]
    where = {"kernel": kernel, "strides": strides, "dilations": dilations}
    where |= {"pads": pads, "output": output}

    matrix = gram(isa, groups, channels // groups * int(np.prod(kernel)))
    assert all(matrix.update(x, **where) for x in calls)

    count, values = matrix.state()
    assert count == 3 * np.prod(output)
    assert integers(values) == definition([windows(x, groups, **where) for x in calls])


@pytest.mark.parametrize("isa", ISAS)
@given(
    x=hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12), elements=finite)
)
@settings(max_examples=40, deadline=None)
def test_any_values_equal_the_definition(isa, x):
    x = x.reshape(*x.shape, 1, 1, 1)

    matrix = gram(isa, 1, x.shape[1])
    assert matrix.update(x, **ROWS)

    assert integers(matrix.state()[1]) == definition([windows(x, 1, **ROWS)])


@given(calls=st.lists(hnp.arrays(np.float32, (3, 4), elements=finite), max_size=6), data=st.data())
@settings(max_examples=40, deadline=None)
def test_any_order_of_calls_gives_the_same(calls, data):
    one, other = _native.Gram(1, 4), _native.Gram(1, 4)

    for x in calls:
        one.update(x.reshape(3, 4, 1, 1, 1), **ROWS)
    for x in data.draw(st.permutations(calls)):
        other.update(x.reshape(3, 4, 1, 1, 1), **ROWS)

    assert one.state()[1].tobytes() == other.state()[1].tobytes()


def test_the_packing_of_many_positions_keeps_their_order(rng):
    x = rng.standard_normal((1000, 2, 1, 1, 1), np.float32) * 1e3
    fast, plain = _native.Gram(1, 2), _native.Gram(1, 2, "scalar")

    fast.update(x, **ROWS)
    plain.update(x, **ROWS)

    assert integers(fast.state()[1]) == definition([windows(x, 1, **ROWS)])
    assert fast.state()[1].tobytes() == plain.state()[1].tobytes()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, 2.0**31, -3e38])
def test_values_out_of_range_are_refused(isa, bad):
    matrix = gram(isa, 1, 2)

    assert not matrix.update(np.full((1, 2, 1, 1, 1), bad, np.float32), **ROWS)


def test_a_sum_over_the_range_is_refused():
    matrix = _native.Gram(1, 1)
    x = np.full((1, 1, 1, 1, 1), 2.0**30, np.float32)  # x x^T = 2**60, the range is 2**64

    assert [matrix.update(x, **ROWS) for _ in range(16)] == [True] * 15 + [False]


@pytest.mark.parametrize(
    "changes",
    [
        {"kernel": (1, 1, 2)},
        {"kernel": (0, 1, 1)},
        {"kernel": (1, 1, -1)},
        {"strides": (1, 0, 1)},
        {"dilations": (1, 1, 2**62)},
        {"pads": (0, -1, 0)},
        {"output": (1, 1, -1)},
        {"output": (1, 2**62, 1)},
        {"output": (2**30, 2**30, 1)},
        {"strides": (1, 2**39, 1), "output": (1, 2**30, 1)},
    ],
)
def test_impossible_geometry_is_refused(changes):
    matrix = _native.Gram(1, 4)

    with pytest.raises(ValueError, match="."):
        matrix.update(np.ones((1, 4, 1, 1, 1), np.float32), **{**ROWS, **changes})


@pytest.mark.parametrize("channels", [0, 3, 6])
def test_channels_that_do_not_fit_are_refused(channels):
    with pytest.raises(ValueError, match="."):
        _native.Gram(2, 2).update(np.ones((1, channels, 1, 1, 1), np.float32), **ROWS)


@pytest.mark.parametrize("sizes", [(0, 1), (1, 0), (-1, 1), (2**62, 1), (1, 2**40)])
def test_impossible_sizes_are_refused(sizes):
    with pytest.raises(ValueError, match="sizes are out of range"):
        _native.Gram(*sizes)


def test_sizes_that_no_memory_holds_are_a_memory_error():
    with pytest.raises(MemoryError):
        _native.Gram(1 << 39, 1 << 12)


def test_other_dtypes_are_not_converted():
    with pytest.raises(TypeError):
        _native.Gram(1, 1).update(np.ones((1, 1, 1, 1, 1)), **ROWS)


def test_no_positions_add_nothing():
    matrix = _native.Gram(1, 3)

    assert matrix.update(np.ones((0, 3, 1, 1, 1), np.float32), **ROWS)

    count, values = matrix.state()
    assert (count, values.any()) == (0, False)
