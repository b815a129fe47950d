"""Runs a model over many samples in threads, one sample at a time in each."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Protocol

from qtool.errors import QtoolError
from qtool.runtime import Runner
from qtool.runtime.ort import Array, Feeds

SHORT_S = 0.005  # threads that take work more often than this wait for each other
MOST = 64  # samples at a time


class Sample(Protocol):
    """What is fed once."""

    @property
    def feeds(self) -> Feeds:
        """The inputs by name."""

    @property
    def where(self) -> str:
        """Where it comes from, for errors."""


See = Callable[[Sample, Mapping[str, Array]], None]


def sweep(
    session: Runner,
    samples: Iterable[Callable[[], Sample]],
    see: See,
    *,
    threads: int,
    batch: int = 1,
    before: See | None = None,
) -> None:
    """Run the session on every sample; show see() its outputs, and before() its inputs first.

    A thread loads (by calling the item), runs and sees `batch` samples before it takes more, and
    more at a time where that takes little; what see() is shown does not depend on batch or threads,
    only the order does. The outputs are dropped at once, and only a few samples are waiting: memory
    does not grow with samples.
    An exception, also KeyboardInterrupt, stops the runs that are under way.

    Raises:
        QtoolError: a run failed; the message names the sample.
    """

    def one(sample: Sample) -> None:
        if before is not None:  # before the run: both then find them in the cache
            before(sample, sample.feeds)
        try:
            outputs = session.run(sample.feeds)
        except QtoolError as error:
            raise type(error)(f"{sample.where}: {error}") from error
        see(sample, outputs)

    def work(group: list[Callable[[], Sample]]) -> float:
        start = time.perf_counter()
        for load in group:
            one(load())  # whose outputs are gone when the next run needs memory
        return time.perf_counter() - start

    left = iter(samples)
    waiting: deque[Future[float]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="qtool-run") as pool:
        try:
            while group := list(islice(left, batch)):
                waiting.append(pool.submit(work, group))
                while len(waiting) > 2 * threads:
                    if waiting.popleft().result() < SHORT_S and batch < MOST:
                        batch *= 2
            while waiting:
                waiting.popleft().result()
        except BaseException:
            session.cancel()
            for future in waiting:
                future.cancel()
            raise
