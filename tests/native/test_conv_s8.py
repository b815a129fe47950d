"""The convolution kernels of every instruction set against reference.py, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import reference
from conv_case import UNTOUCHED, Case, qparams
from hypothesis import given, settings
from hypothesis import strategies as st

from qtool import _native

ALL = _native.conv_variants()
VARIANTS = {name: runs for name, runs in ALL.items() if name.startswith("conv_")}
FAST = [name for name in VARIANTS if "scalar" not in name]


@pytest.fixture(params=VARIANTS)
def variant(request):
    if not VARIANTS[request.param]:
        pytest.skip("this machine cannot run it")
    return request.param


def assert_equal(case, variant, **arguments):
    np.testing.assert_array_equal(case.run(variant, **arguments), case.expected())


@pytest.mark.parametrize("out_c", [1, 15, 16, 17, 31, 33, 47, 48, 49, 63, 64, 65, 130])
def test_any_number_of_channels(variant, out_c):
    assert_equal(Case((1, 5, 7, 8), out_c, (3, 3), pads=(1, 1, 1, 1), x_zero_point=3), variant)


@pytest.mark.parametrize("in_c", [1, 2, 3, 4, 5, 16, 31, 61, 64, 65, 129])
@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (1, 5), (4, 2)])
def test_any_depth(variant, in_c, kernel):
    assert_equal(Case((1, 6, 9, in_c), 20, kernel, pads=(1, 0, 2, 1), x_zero_point=255), variant)


@pytest.mark.parametrize("width", [1, 2, 5, 6, 7, 8, 9, 15, 16, 17, 31, 32, 33, 50])
def test_any_width(variant, width):
    case = Case((1, 3, width, 4), 18, (3, 3), pads=(1, 1, 1, 1), x_zero_point=128)
    assert_equal(case, variant)


@pytest.mark.parametrize("n", [1, 2, 3, 8])
@pytest.mark.parametrize("strides", [(1, 1), (2, 2), (1, 3)])
@pytest.mark.parametrize("kernel", [(1, 1), (3, 2)])
def test_batches_and_strides(variant, n, strides, kernel):
    assert_equal(Case((n, 8, 12, 12), 24, kernel, strides), variant)


@pytest.mark.parametrize("dilations", [(2, 2), (1, 3), (3, 1)])
@pytest.mark.parametrize("pads", [(0, 0, 0, 0), (3, 3, 3, 3), (5, 0, 1, 4)])
def test_dilations_and_pads(variant, dilations, pads):
    case = Case((2, 9, 11, 8), 20, (3, 3), dilations=dilations, pads=pads, x_zero_point=7)
    assert_equal(case, variant)


@pytest.mark.parametrize(
    ("groups", "in_c", "out_c"), [(2, 8, 40), (3, 15, 6), (4, 16, 4), (5, 5, 15)]
)
def test_groups(variant, groups, in_c, out_c):
    case = Case((2, 6, 7, in_c), out_c, (3, 3), pads=(1, 1, 1, 1), groups=groups, x_zero_point=200)
    assert_equal(case, variant)


def test_a_window_larger_than_the_image(variant):
    case = Case((1, 2, 3, 4), 16, (5, 7), pads=(3, 6, 2, 4), x_zero_point=99)
    assert_equal(case, variant)


def test_a_window_that_is_the_image(variant):
    assert_equal(Case((3, 7, 5, 32), 33, (7, 5)), variant)


@pytest.mark.parametrize("limits", [(0, 0, 255), (255, 0, 255), (128, 128, 255), (10, 20, 30)])
@pytest.mark.parametrize("x_zero_point", [0, 255])
def test_zero_points_and_clamps(variant, limits, x_zero_point):
    case = Case(
        (1, 6, 6, 20),
        21,
        (3, 3),
        pads=(1, 1, 1, 1),
        x_zero_point=x_zero_point,
        y_limits=limits,
    )
    assert_equal(case, variant)


@pytest.mark.parametrize("x_zero_point", [0, 128, 255])
def test_sums_of_the_largest_products(variant, x_zero_point):
    case = Case((1, 4, 5, 4096), 17, most=True, x_zero_point=x_zero_point)
    assert_equal(case, variant)


def test_accumulators_near_the_limits(variant):
    case = Case((1, 3, 3, 64), 20, most=True)
    near = np.iinfo(np.int32).max - 64 * 127 * 255
    case.bias = np.where(case.w[:, 0, 0, 0] > 0, near, -near).astype(np.int32)
    case.scale = np.full(20, 2.0**-24, np.float32)
    assert_equal(case, variant)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30, 3e38])
def test_extreme_scales(variant, scale):
    case = Case((1, 4, 4, 8), 20, y_limits=(100, 0, 255))
    case.scale = np.full(20, scale, np.float32)
    assert_equal(case, variant)


def test_ties_go_to_even(variant):
    case = Case((1, 8, 8, 8), 20, y_limits=(101, 0, 255))
    case.scale = np.full(20, 0.5, np.float32)
    assert_equal(case, variant)


def test_wide_rows_leave_what_lies_between_untouched(variant):
    case = Case((2, 5, 6, 9), 21, (3, 3), pads=(1, 1, 1, 1), x_zero_point=5)

    y = case.run(variant, x_gap=7, y_gap=5)

    np.testing.assert_array_equal(y[..., :21], case.expected())
    assert (y[..., 21:] == UNTOUCHED).all()


@pytest.mark.parametrize("parts", [2, 3, 7])
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_any_split_gives_the_same(variant, parts, threads):
    case = Case((2, 13, 14, 24), 100, (3, 3), pads=(1, 1, 1, 1), x_zero_point=9)
    assert_equal(case, variant, parts=parts, threads=threads)


@pytest.mark.slow
@pytest.mark.parametrize("kernel", [(1, 1), (3, 3)])
def test_several_blocks_of_the_image(variant, kernel):
    case = Case((2, 70, 75, 64), 40, kernel, pads=(kernel[0] // 2,) * 4, x_zero_point=9)
    assert_equal(case, variant, parts=3)


def test_a_table_is_looked_up(variant, rng):
    table = rng.permutation(256).astype(np.uint8)
    case = Case((1, 7, 5, 24), 50, (3, 3), y_limits=(120, 3, 250))
    np.testing.assert_array_equal(case.run(variant, table=table), table[case.expected()])


@pytest.mark.parametrize("out_c", [1, 16, 33, 64, 65])
@pytest.mark.parametrize("sum_limits", [(0, 0, 0, 255), (255, 128, 10, 250), (77, 255, 255, 255)])
def test_a_residual_is_added(variant, rng, out_c, sum_limits):
    case = Case((1, 5, 9, 24), out_c, y_limits=(120, 3, 250))
    other = rng.integers(0, 256, case.expected().shape, dtype=np.uint8)
    ratios = (np.float32(0.6180339), np.float32(1.2345678))

    y = case.run(variant, residual=other, sum_limits=sum_limits, ratios=ratios, y_gap=3)

    own = reference.centred(case.expected(), qparams(120)).astype(np.float32) * ratios[0]
    r = reference.centred(other, qparams(sum_limits[0])).astype(np.float32) * ratios[1]
    expected = reference.saturate(np.rint(own + r), qparams(sum_limits[1]), sum_limits[2:])
    np.testing.assert_array_equal(y[..., :out_c], expected)


@pytest.mark.parametrize("out_c", [1, 17, 64, 70])
@pytest.mark.parametrize("biased", [False, True])
def test_a_float_output(variant, rng, out_c, biased):
    case = Case((1, 3, 11, 24), out_c)
    bias = rng.normal(size=out_c).astype(np.float32) if biased else None

    y = case.run(variant, float_output=True, float_bias=bias, y_gap=1)

    expected = case.accumulators().astype(np.float32) * case.scale
    expected = expected if bias is None else expected + bias
    np.testing.assert_array_equal(y[..., :out_c], expected)
    assert (y[..., out_c:].view(np.uint8) == UNTOUCHED).all()


sizes = st.integers(1, 6)


@st.composite
def cases(draw):
    groups = draw(st.sampled_from([1, 1, 1, 2, 3]))
    kernel = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    dilations = draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    pads = draw(st.tuples(*[st.integers(0, 3)] * 4))
    low = draw(st.integers(0, 255))
    return Case(
        (
            draw(st.integers(1, 8)),
            draw(st.integers(max(1, reach[0] - pads[0] - pads[2]), reach[0] + 8)),
            draw(st.integers(max(1, reach[1] - pads[1] - pads[3]), reach[1] + 20)),
            groups * draw(st.integers(1, 40)),
        ),
        groups * draw(st.integers(1, 70)),
        kernel,
        draw(st.tuples(st.integers(1, 3), st.integers(1, 3))),
        dilations,
        pads,
        groups,
        draw(st.integers(0, 255)),
        (draw(st.integers(0, 255)), low, draw(st.integers(low, 255))),
        {"x_gap": draw(st.integers(0, 3)), "parts": draw(st.integers(1, 4))},
        draw(st.integers(0, 2**32)),
    )


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(case=cases())
def test_any_shape(case):
    expected = case.expected()
    for name in FAST:
        if VARIANTS[name]:
            np.testing.assert_array_equal(case.run(name), expected, err_msg=name)
