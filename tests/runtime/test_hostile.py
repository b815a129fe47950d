"""Programs with faults that fuzzing once found a way through with: refused, or harmless."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from runtime.seeds import SEEDS, lowered

from qtool import _native
from qtool.runtime.program import Buffer, Op, Program, Tensor

TENSOR_BYTES = 64
LARGEST = 2**31 - 1


def tensor(content: bytearray, i: int) -> int:
    """Return where the record of tensor i begins."""
    return struct.unpack_from("<Q", content, 32)[0] + i * TENSOR_BYTES


def opened(content: bytes):
    return _native.Session(bytes(content), None, 1, "")


def seed(name: str) -> bytearray:
    return bytearray(lowered(SEEDS[name]).to_bytes())


@pytest.mark.parametrize("rank", [2, 3, 4, 6])
def test_sizes_whose_product_overflows_are_refused(rank):
    content = seed("floats")
    at = tensor(content, 0)
    content[at + 1] = rank
    struct.pack_into(f"<i{rank}i", content, at + 4, LARGEST, *[LARGEST] * rank)

    with pytest.raises(RuntimeError, match="a tensor is too large"):
        opened(content)


def test_a_gather_whose_result_overlaps_its_input_moves_bytes_in_turn():
    arena = Buffer("arena", 160)
    x, y = Tensor("float32", (4, 10), arena), Tensor("float32", (2, 10), arena, start=5)
    fed, made = (Tensor("float32", t.shape, Buffer(k, 0)) for t, k in ((x, "input"), (y, "output")))
    indices = Tensor("int64", (2,), Buffer("constant", 16, np.array([0, 1])))
    whole = ((0, 0, 40, 1, 1), (0, 0, 20, 1, 1))
    ops = [
        Op("Copy", (fed,), (x,), whole[0]),
        Op("Gather", (x, indices), (y,), (1, 4, 10)),
        Op("Copy", (y,), (made,), whole[1]),
    ]
    content = Program(ops, [fed], [made], arena.n_bytes).to_bytes()
    values = np.arange(40, dtype=np.float32)

    (found,) = opened(content).run([values.reshape(4, 10)])

    for row in range(2):
        values[5 + 10 * row : 15 + 10 * row] = values[10 * row : 10 * row + 10].copy()
    np.testing.assert_array_equal(found, values[5:25].reshape(2, 10))
