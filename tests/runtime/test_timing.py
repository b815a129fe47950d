from __future__ import annotations

import pytest

from qtool.runtime import timing
from qtool.runtime.timing import Times, interleave


class Clock:
    """A clock that only runs move."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def takes(self, seconds, log=None, name=""):
        def run():
            self.now += seconds
            if log is not None:
                log.append(name)

        return run


@pytest.fixture(autouse=True)
def no_pause(monkeypatch):
    monkeypatch.setattr(timing, "PAUSE_SECONDS", 0)


def test_each_contestant_gets_its_own_time():
    clock = Clock()

    found = interleave({"a": clock.takes(0.25), "b": clock.takes(0.5)}, seconds=1, clock=clock)

    assert (found["a"].median, found["a"].minimum) == (250.0, 250.0)
    assert found["b"].over(found["a"]) == (2.0, 2.0, 2.0)


def test_bursts_take_turns_and_the_first_is_not_always_the_same():
    clock, log = Clock(), []
    contestants = {name: clock.takes(1.0, log, name) for name in "ab"}

    interleave(contestants, seconds=0, clock=clock)

    burst = timing.WARM_UP + 1
    in_turn = "".join(log[len(contestants) * (1 + 2 * burst) :])
    assert in_turn == ("a" * burst + "b" * burst * 2 + "a" * burst) * 2 + "a" * burst + "b" * burst


def test_fast_runs_are_grouped_and_slow_ones_are_not():
    clock = Clock()

    found = interleave(
        {"fast": clock.takes(timing.BURST_SECONDS / 8), "slow": clock.takes(1.0)},
        seconds=0,
        clock=clock,
    )

    assert [len(r) for r in found["fast"].rounds] == [8] * timing.MIN_ROUNDS
    assert [len(r) for r in found["slow"].rounds] == [1] * timing.MIN_ROUNDS


def test_a_ratio_is_of_the_same_round():
    slow_second_round = Times([[1.0], [10.0], [1.0]])
    twice = Times([[2.0], [20.0], [2.0]])

    assert twice.over(slow_second_round) == (2.0, 2.0, 2.0)
