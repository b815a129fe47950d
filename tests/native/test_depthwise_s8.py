"""The depthwise kernels against reference.py, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import reference
from conv_case import UNTOUCHED, Case, qparams
from hypothesis import given, settings
from hypothesis import strategies as st

from qtool import _native

VARIANTS = {
    name: runs
    for name, runs in _native.conv_variants().items()
    if name.startswith("depthwise_") or "scalar" in name
}


@pytest.fixture(params=VARIANTS)
def variant(request):
    if not VARIANTS[request.param]:
        pytest.skip("this machine cannot run it")
    return request.param


def depthwise(image, *arguments, **more):
    return Case(image, image[3], *arguments, groups=image[3], **more)


def assert_equal(case, variant, **arguments):
    np.testing.assert_array_equal(case.run(variant, **arguments), case.expected())


@pytest.mark.parametrize("channels", [1, 3, 16, 31, 32, 33, 63, 64, 65, 96, 97, 130])
@pytest.mark.parametrize("strides", [(1, 1), (2, 2)])
def test_any_number_of_channels(variant, channels, strides):
    case = depthwise((1, 6, 7, channels), (3, 3), strides, pads=(1, 1, 1, 1), x_zero_point=3)
    assert_equal(case, variant)


@pytest.mark.parametrize("kernel", [(1, 1), (1, 2), (3, 1), (2, 4), (5, 5), (7, 7), (1, 9), (6, 3)])
@pytest.mark.parametrize("strides", [(1, 1), (2, 1), (1, 2), (3, 3)])
def test_any_kernel(variant, kernel, strides):
    case = depthwise((1, 9, 11, 40), kernel, strides, pads=(2, 1, 3, 2), x_zero_point=255)
    assert_equal(case, variant)


@pytest.mark.parametrize("width", [1, 2, 3, 4, 5, 7, 8, 9, 17])
@pytest.mark.parametrize("kernel", [(3, 3), (5, 5)])
def test_any_width(variant, width, kernel):
    case = depthwise((1, 4, width, 20), kernel, pads=(2, 2, 2, 2), x_zero_point=128)
    assert_equal(case, variant)


@pytest.mark.parametrize("dilations", [(2, 2), (1, 3), (3, 1)])
def test_dilations(variant, dilations):
    case = depthwise((1, 9, 11, 24), (3, 3), dilations=dilations, pads=(3, 3, 3, 3))
    assert_equal(case, variant)


@pytest.mark.parametrize("n", [2, 8])
@pytest.mark.parametrize("pads", [(0, 0, 0, 0), (1, 1, 1, 1)])
def test_batches(variant, n, pads):
    case = depthwise((n, 5, 6, 70), (3, 3), pads=pads, x_zero_point=50)
    assert_equal(case, variant)


@pytest.mark.parametrize("limits", [(0, 0, 255), (255, 0, 255), (128, 128, 255), (10, 20, 30)])
@pytest.mark.parametrize("channels", [20, 64])
def test_zero_points_and_clamps(variant, limits, channels):
    case = depthwise(
        (1, 6, 6, channels), (3, 3), pads=(1, 1, 1, 1), x_zero_point=200, y_limits=limits
    )
    assert_equal(case, variant)


@pytest.mark.parametrize("channels", [20, 64])
def test_accumulators_near_the_limits(variant, channels):
    case = depthwise((1, 7, 7, channels), (5, 5), most=True)
    near = np.iinfo(np.int32).max - 25 * 127 * 255
    case.bias = np.where(case.w[:, 0, 0, 0] > 0, near, -near).astype(np.int32)
    case.scale = np.full(channels, 2.0**-24, np.float32)
    assert_equal(case, variant)


@pytest.mark.parametrize("scale", [1e-30, 1e30, 3e38])
def test_extreme_scales(variant, scale):
    case = depthwise((1, 4, 4, 84), (3, 3), y_limits=(100, 0, 255))
    case.scale = np.full(84, scale, np.float32)
    assert_equal(case, variant)


@pytest.mark.parametrize("channels", [21, 64, 80])
def test_wide_rows_leave_what_lies_between_untouched(variant, channels):
    case = depthwise((2, 5, 6, channels), (3, 3), pads=(1, 1, 1, 1), x_zero_point=5)

    y = case.run(variant, x_gap=7, y_gap=5)

    np.testing.assert_array_equal(y[..., :channels], case.expected())
    assert (y[..., channels:] == UNTOUCHED).all()


@pytest.mark.parametrize(("parts", "threads"), [(2, 2), (3, 4), (7, 5)])
def test_any_split_gives_the_same(variant, parts, threads):
    case = depthwise((2, 13, 14, 24), (3, 3), pads=(1, 1, 1, 1), x_zero_point=9)
    assert_equal(case, variant, parts=parts, threads=threads)


@pytest.mark.parametrize("channels", [8, 20, 32, 64, 100])
def test_a_table_is_looked_up(variant, rng, channels):
    table = rng.permutation(256).astype(np.uint8)
    case = depthwise((1, 7, 5, channels), (3, 3), y_limits=(120, 3, 250))
    np.testing.assert_array_equal(case.run(variant, table=table), table[case.expected()])


@pytest.mark.parametrize("channels", [8, 20, 32, 64, 100])
def test_a_residual_is_added(variant, rng, channels):
    case = depthwise((1, 5, 9, channels), (3, 3), y_limits=(120, 3, 250))
    other = rng.integers(0, 256, case.expected().shape, dtype=np.uint8)
    ratios = (np.float32(0.6180339), np.float32(1.2345678))

    y = case.run(variant, residual=other, sum_limits=(9, 77, 10, 250), ratios=ratios, y_gap=3)

    own = reference.centred(case.expected(), qparams(120)).astype(np.float32) * ratios[0]
    r = reference.centred(other, qparams(9)).astype(np.float32) * ratios[1]
    expected = reference.saturate(np.rint(own + r), qparams(77), (10, 250))
    np.testing.assert_array_equal(y[..., :channels], expected)


@pytest.mark.parametrize("channels", [20, 64, 100])
@pytest.mark.parametrize("biased", [False, True])
def test_a_float_output(variant, rng, channels, biased):
    case = depthwise((1, 3, 11, channels), (3, 3))
    bias = rng.normal(size=channels).astype(np.float32) if biased else None

    y = case.run(variant, float_output=True, float_bias=bias)

    expected = case.accumulators().astype(np.float32) * case.scale
    np.testing.assert_array_equal(y, expected if bias is None else expected + bias)


@st.composite
def cases(draw):
    kernel = draw(st.tuples(st.integers(1, 7), st.integers(1, 7)))
    dilations = draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    pads = draw(st.tuples(*[st.integers(0, 3)] * 4))
    return depthwise(
        (
            draw(st.integers(1, 3)),
            draw(st.integers(max(1, reach[0] - pads[0] - pads[2]), reach[0] + 8)),
            draw(st.integers(max(1, reach[1] - pads[1] - pads[3]), reach[1] + 20)),
            draw(st.integers(1, 140)),
        ),
        kernel,
        draw(st.tuples(st.integers(1, 3), st.integers(1, 3))),
        dilations,
        pads,
        x_zero_point=draw(st.integers(0, 255)),
        y_limits=(draw(st.integers(0, 255)), 0, 255),
        extra={"x_gap": draw(st.integers(0, 3)), "parts": draw(st.integers(1, 4))},
        seed=draw(st.integers(0, 2**32)),
    )


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(case=cases())
def test_any_shape(case):
    expected = case.expected()
    for name, runs in VARIANTS.items():
        if runs:
            np.testing.assert_array_equal(case.run(name), expected, err_msg=name)
