from __future__ import annotations

import mmap
import sys

import numpy as np
import pytest

from qtool.formats import mapping
from qtool.runtime.memory import resident_bytes


@pytest.mark.skipif(sys.platform != "linux", reason="how much is resident is known on Linux only")
def test_a_released_piece_leaves_memory_and_can_be_read_again(tmp_path):
    written = np.arange(8 << 20, dtype=np.uint64)
    written.tofile(tmp_path / "values")
    values = np.memmap(tmp_path / "values", np.uint64, mode="r")
    assert np.array_equal(values, written)
    before = resident_bytes()

    mapping.release(np.ascontiguousarray(values).view(np.uint8).data)

    assert before - resident_bytes() > values.nbytes / 2
    assert np.array_equal(values, written)


@pytest.mark.parametrize("piece", [bytes(1 << 17), np.ones(1 << 17, np.uint8).data])
def test_releasing_what_is_not_mapped_changes_nothing(piece):
    before = bytes(piece)

    mapping.release(piece)

    assert bytes(piece) == before


def test_changes_to_a_private_copy_are_not_dropped(tmp_path):
    np.zeros(mmap.PAGESIZE * 64, np.uint8).tofile(tmp_path / "values")
    values = np.memmap(tmp_path / "values", np.uint8, mode="c")
    values[:] = 7

    mapping.release(values.data)

    assert (values == 7).all()
