from __future__ import annotations

from runtime.seeds import SEEDS, lowered

from qtool.runtime.program import OPCODES


def test_together_the_seeds_have_every_op():
    found = {op.code for make in SEEDS.values() for op in lowered(make).ops}

    assert found == set(OPCODES)
