"""Times several things in turn, so that what disturbs the machine disturbs all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

BURST_SECONDS = 0.05  # that one contestant runs before the next
MAX_BURST = 500  # runs
WARM_UP = 2  # runs of a burst that do not count: caches and sleeping threads
PAUSE_SECONDS = 0.003  # between bursts, in which the last one's threads stop spinning
MIN_ROUNDS = 5


@dataclass
class Times:
    """Milliseconds of each run, round by round."""

    rounds: list[list[float]] = field(default_factory=list)

    @property
    def all(self) -> list[float]:
        """The runs of all rounds."""
        return [ms for of_round in self.rounds for ms in of_round]

    @property
    def median(self) -> float:
        """The median of all runs."""
        return statistics.median(self.all)

    @property
    def minimum(self) -> float:
        """The fastest run."""
        return min(self.all)

    def over(self, other: Times) -> tuple[float, float, float]:
        """Return median and quartiles, over the rounds, of the ratio of these times to other's."""
        pairs = zip(self.rounds, other.rounds, strict=True)
        ratios = [statistics.median(a) / statistics.median(b) for a, b in pairs]
        if len(ratios) == 1:
            return ratios[0], ratios[0], ratios[0]
        low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
        return middle, low, high


def interleave(
    contestants: Mapping[str, Callable[[], object]],
    *,
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Times]:
    """Run the contestants burst by burst in turn, for about so many seconds and MIN_ROUNDS."""
    sizes = {name: _burst(run, clock) for name, run in contestants.items()}
    found = {name: Times() for name in contestants}
    end = clock() + seconds
    names = list(contestants)
    while len(found[names[0]].rounds) < MIN_ROUNDS or clock() < end:
        for name in names:
            time.sleep(PAUSE_SECONDS)
            found[name].rounds.append(_timed(contestants[name], sizes[name], clock))
        names.append(names.pop(0))  # nobody always follows the same
    return found


def _burst(run: Callable[[], object], clock: Callable[[], float]) -> int:
    run()
    each = min(_timed(run, 1, clock)[0] for _ in range(2)) / 1e3
    return max(1, min(MAX_BURST, int(BURST_SECONDS / max(each, 1e-7))))


def _timed(run: Callable[[], object], times: int, clock: Callable[[], float]) -> list[float]:
    for _ in range(WARM_UP):
        run()
    found = []
    for _ in range(times):
        start = clock()
        run()
        found.append((clock() - start) * 1e3)
    return found
