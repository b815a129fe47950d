"""Constants reach the native runtime one by one or in a Program's bytes, with the same result."""

from __future__ import annotations

import numpy as np
import pytest
from runtime.graphs import Graph, integers, per_tensor, weight

from qtool import _native
from qtool.runtime import Session
from qtool.runtime.program import ALIGN, Constants


@pytest.fixture
def program(rng):
    p = per_tensor(0.02, 7)
    graph = Graph()
    w, w_p = weight(rng, (4, 3, 3, 3))
    y = graph.node("Conv", graph.real(integers(rng, (1, 3, 6, 5), p), p), graph.fixed(w, w_p))
    graph.output(graph.quantize(y, p), "uint8", 4)
    return Session(graph.model()).program()


def test_offsets_are_aligned_and_each_finds_its_array():
    constants = Constants()
    arrays = [np.arange(n, dtype=np.int32) for n in (1, 40, 16)]

    offsets = [constants.add(a) for a in arrays]

    assert [o % ALIGN for o in offsets] == [0, 0, 0]
    for offset, values in zip(offsets, arrays, strict=True):
        begin, found = constants(offset + values.nbytes - 1)
        assert begin == offset
        np.testing.assert_array_equal(found.view(np.int32), values)


def test_views_are_copied_when_they_are_asked_for():
    constants = Constants()
    values = np.arange(24, dtype=np.int8).reshape(4, 6).T
    constants.add(values)

    assert b"".join(constants.parts())[:24] == values.tobytes()


def test_both_ways_give_the_same(program, rng):
    x = rng.integers(0, 256, program.inputs[0].shape, dtype=np.uint8)
    head, constants = program.parts()

    one_by_one = _native.Session(head, constants, threads=1, isa="")
    at_once = _native.Session(program.to_bytes(), None, threads=1, isa="")

    np.testing.assert_array_equal(one_by_one.run([x])[0], at_once.run([x])[0])


def test_a_constant_that_is_too_short_is_refused(program):
    head, _ = program.parts()

    with pytest.raises(RuntimeError, match="shorter than its tensor"):
        _native.Session(head, lambda offset: (offset, np.zeros(1, np.uint8)), threads=1, isa="")
