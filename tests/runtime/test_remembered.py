from __future__ import annotations

import numpy as np
import pytest

from qtool.runtime.remembered import Remembered


class Doubling:
    def __init__(self):
        self.runs = 0

    def run(self, feeds):
        self.runs += 1
        return {"y": feeds["x"] * 2}

    def cancel(self):
        self.runs = -1


def test_the_same_inputs_are_run_once():
    runner = Doubling()
    remembered = Remembered(runner)

    first = remembered.run({"x": np.arange(3.0)})
    again = remembered.run({"x": np.arange(3.0)})

    assert runner.runs == 1
    assert np.array_equal(first["y"], again["y"])


@pytest.mark.parametrize(
    "other", [np.arange(3.0) + 1, np.arange(3.0, dtype=np.float32), np.arange(3.0).reshape(1, 3)]
)
def test_other_values_types_and_shapes_are_run(other):
    runner = Doubling()
    remembered = Remembered(runner)

    remembered.run({"x": np.arange(3.0)})
    remembered.run({"x": other})

    assert runner.runs == 2


def test_what_is_beyond_the_memory_is_run_again():
    runner = Doubling()
    remembered = Remembered(runner, most=30)

    for value in (0.0, 1.0, 0.0, 1.0):
        remembered.run({"x": np.full(3, value)})

    assert runner.runs == 3


def test_cancel_reaches_the_runner():
    runner = Doubling()

    Remembered(runner).cancel()

    assert runner.runs == -1
