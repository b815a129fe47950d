"""Matrix products, which are 1x1 convolutions of one row, against reference.py bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import reference
from conv_case import Case

from qtool import _native
from qtool.qparams import QParams

VARIANTS = {
    name: runs for name, runs in _native.conv_variants().items() if name.startswith("conv_")
}


@pytest.fixture(params=VARIANTS)
def variant(request):
    if not VARIANTS[request.param]:
        pytest.skip("this machine cannot run it")
    return request.param


@pytest.mark.parametrize("m", [1, 2, 5, 6, 7, 11, 12, 13, 15, 16, 17, 31, 32, 33, 100])
@pytest.mark.parametrize("n", [1, 16, 63, 80])
def test_any_number_of_rows(variant, m, n):
    case = Case((1, 1, m, 70), n, x_zero_point=17, y_limits=(128, 0, 255))
    np.testing.assert_array_equal(case.run(variant), case.expected())


@pytest.mark.parametrize("k", [1, 3, 4, 5, 63, 64, 65, 127, 128, 129, 1000])
def test_any_depth(variant, k):
    case = Case((1, 1, 19, k), 37, x_zero_point=255, y_limits=(128, 0, 255))
    np.testing.assert_array_equal(case.run(variant), case.expected())


@pytest.mark.parametrize("parts", [2, 3, 8])
def test_any_split_gives_the_same(variant, parts):
    case = Case((1, 1, 77, 64), 150, x_zero_point=17)
    np.testing.assert_array_equal(case.run(variant, parts=parts, threads=parts), case.expected())


def test_a_layer_equals_the_reference_from_its_qparams(variant, rng):
    x_p = QParams(np.float32(0.02), np.uint8(131), "uint8")
    y_p = QParams(np.float32(0.11), np.uint8(77), "uint8")
    w_p = QParams(rng.uniform(1e-3, 1e-2, 40).astype(np.float32), np.zeros(40, np.int8), "int8", 0)
    case = Case((1, 1, 23, 96), 40, x_zero_point=131, y_limits=(77, 77, 200))
    case.scale = reference.multiplier(x_p, w_p, y_p)

    y = case.run(variant)

    x, w = case.x[0, 0].astype(np.int32), case.w[:, 0, 0].astype(np.int32)
    expected = reference.gemm(x, w, case.bias, x_p, w_p, y_p, clamp=(77, 200))
    np.testing.assert_array_equal(y[0, 0], expected)


LOOK_UPS = _native.look_up_variants()


@pytest.mark.parametrize("name", LOOK_UPS)
@pytest.mark.parametrize("n", [0, 1, 31, 32, 33, 63, 64, 65, 200, 256])
def test_tables_change_the_first_bytes_of_each_row(name, n, rng):
    if not LOOK_UPS[name]:
        pytest.skip("this machine cannot run it")
    table = rng.permutation(256).astype(np.uint8)
    x = np.stack([np.arange(256), rng.permutation(256)]).astype(np.uint8)
    y = x.copy()

    _native.look_up(name, table, y, n)

    np.testing.assert_array_equal(y, np.hstack([table[x[:, :n]], x[:, n:]]))
