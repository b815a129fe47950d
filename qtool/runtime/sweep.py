"""Runs a model over many samples in threads, one sample at a time in each."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Protocol, TypeVar

from qtool.errors import QtoolError
from qtool.runtime import Runner
from qtool.runtime.ort import Array, Feeds

T = TypeVar("T")


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

    A thread loads (by calling the item), runs and sees `batch` samples before it takes more;
    what see() is shown does not depend on batch or threads, only the order does. The outputs
    are dropped at once, and only a few samples are waiting: memory does not grow with samples.
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

    def work(group: list[Callable[[], Sample]]) -> None:
        for load in group:
            one(load())  # whose outputs are gone when the next run needs memory

    waiting: deque[Future[None]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="qtool-run") as pool:
        try:
            for group in _grouped(samples, batch):
                waiting.append(pool.submit(work, group))
                while len(waiting) > 2 * threads:
                    waiting.popleft().result()
            while waiting:
                waiting.popleft().result()
        except BaseException:
            session.cancel()
            for future in waiting:
                future.cancel()
            raise


def _grouped(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while group := list(islice(iterator, size)):
        yield group
