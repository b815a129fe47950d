"""Every op at every instruction set, on random shapes, with any number of threads, bit for bit.

HYPOTHESIS_PROFILE=thorough draws many more.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from runtime.exact import CASES
from runtime.graphs import ISAS


def check(case, threads: int) -> None:
    for isa in ISAS:
        for y, expected in zip(case.graph.run(isa, threads), case.expected, strict=True):
            assert y.dtype == expected.dtype
            np.testing.assert_array_equal(y, expected, err_msg=f"{isa}, {threads} threads")


@pytest.mark.parametrize("op", CASES)
def test_equals_the_reference(op):
    @settings(max_examples=settings().max_examples // 4)
    @given(case=CASES[op], threads=st.integers(1, 3))
    def run(case, threads):
        check(case, threads)

    run()
