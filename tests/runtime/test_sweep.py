from __future__ import annotations

from dataclasses import dataclass, field
from threading import Lock

import numpy as np
import pytest

from qtool.errors import DataError
from qtool.runtime.sweep import sweep


@dataclass
class Item:
    number: int
    feeds: dict[str, np.ndarray] = field(default_factory=dict)
    where: str = "a sample"


class Doubling:
    def run(self, feeds):
        return {"y": 2 * feeds["x"]}

    def cancel(self):
        pass


def loads(n):
    return [lambda i=i: Item(i, {"x": np.float32(i)}) for i in range(n)]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("n", [0, 1, 7, 1000])
def test_every_sample_is_seen_once(n, threads):
    seen, lock = [], Lock()

    def see(item, outputs):
        with lock:
            seen.append((item.number, float(outputs["y"])))

    sweep(Doubling(), loads(n), see, threads=threads)

    assert sorted(seen) == [(i, 2.0 * i) for i in range(n)]


def test_samples_are_taken_as_they_are_needed():
    taken = []

    def endless():
        for load in loads(1_000_000):
            taken.append(load)
            yield load

    class Failing(Doubling):
        def run(self, feeds):
            raise DataError("no")

    with pytest.raises(DataError, match="a sample: no"):
        sweep(Failing(), endless(), lambda item, outputs: None, threads=2)

    assert len(taken) < 1000
