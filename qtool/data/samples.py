"""Samples: what a source yields, checked, preprocessed and grouped into what a model is fed."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from qtool.data.inputs import Input, prepare
from qtool.errors import DataError

Array = npt.NDArray[Any]
MAX_DECODERS = 4


@dataclass(frozen=True)
class Item:
    """One sample as its source holds it: raw arrays by input name.

    Arrays named in rows have no batch axis yet; the others are fed as they are. label is a
    scalar or an array, without batch axis where there are rows. where names file and row.
    """

    feeds: Mapping[str, Array]
    rows: frozenset[str]
    label: Array | None
    where: str


class Source(Protocol):
    """Where samples come from."""

    n: int | None  # None where only iterating tells
    kind: str  # "samples", "random" or "synthetic"
    slow: bool  # worth reading ahead in threads
    floats: bool  # whether arrays may be floating-point

    def read(self, index: int) -> Item:
        """Return item index; only where n is known."""

    def items(self) -> Iterator[Item]:
        """Yield all items from the start; only where n is unknown."""

    def check(self, order: Sequence[int]) -> None:
        """Raise DataError if these items, as far as can be told cheaply, cannot be used."""

    def integers(self, name: str) -> bool:
        """Tell whether the arrays of this input are known to be integers."""

    def labels(self, order: Sequence[int]) -> Array | None:
        """Return the labels of these items where they can be told without reading the items."""


@dataclass(frozen=True)
class Sample:
    """What a model is fed once: feeds by input name, with batch axis, dtype and layout right.

    label has the labels of the n true samples along axis 0. In a model of fixed batch, the rows
    from n on repeat the last true one: use the first n of every output only.
    """

    index: int
    feeds: dict[str, Array]
    label: Array | None
    where: str
    n: int = 1


class Samples:
    """The samples of a source in a chosen order. Iterable many times; safe to share by threads.

    n is the number of samples (None where only iterating tells). len(samples) and samples[i]
    count groups of batch samples: the same as n where batch is 1.
    """

    def __init__(
        self,
        source: Source,
        inputs: Sequence[Input],
        *,
        order: Sequence[int] | None,
        limit: int | None,
        batch: int,
        padded: bool,
        preprocess: Mapping[str, Any] | None,
    ) -> None:
        self._source, self._inputs, self._order = source, {i.name: i for i in inputs}, order
        self._limit, self.batch, self._padded = limit, batch, padded
        self.preprocess = preprocess
        self.source = source.kind
        self.n = None if order is None else len(order)

    def __len__(self) -> int:
        if self._order is None:
            raise TypeError("this source's length is not known before it has been read")
        return -(-len(self._order) // self.batch)

    def __getitem__(self, index: int) -> Sample:
        if self._order is None:
            raise TypeError("this source can only be iterated")
        if not 0 <= index < len(self):
            raise IndexError(index)
        chosen = self._order[index * self.batch : (index + 1) * self.batch]
        return self._join(index, [self._source.read(int(i)) for i in chosen])

    def __iter__(self) -> Iterator[Sample]:
        if self._order is None:
            yield from self._stream()
        elif self._source.slow:
            yield from self._ahead()
        else:
            for index in range(len(self)):
                yield self[index]

    def labels(self) -> Array | None:
        """Return the labels of all samples where they can be told without reading these."""
        return None if self._order is None else self._source.labels(self._order)

    def _stream(self) -> Iterator[Sample]:
        items, index = islice(self._source.items(), self._limit), 0
        while group := list(islice(items, self.batch)):
            yield self._join(index, group)
            index += 1
        if index == 0:
            raise DataError("the source yielded no samples")

    def _ahead(self) -> Iterator[Sample]:
        workers = min(MAX_DECODERS, os.cpu_count() or 1)
        waiting: deque[Future[Sample]] = deque()
        pool = ThreadPoolExecutor(workers, thread_name_prefix="qtool-data")
        try:
            for index in range(len(self)):
                waiting.append(pool.submit(self.__getitem__, index))
                if len(waiting) > 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)

    def _join(self, index: int, items: list[Item]) -> Sample:
        feeds = {name: self._feed(name, items) for name in self._inputs}
        first, n = items[0], len(items)
        if first.label is None:
            label = None
        elif first.rows:
            label = stack([item.label for item in items if item.label is not None], first.where)
        else:
            label = np.atleast_1d(first.label)
        if not first.rows:
            leading = next(iter(feeds.values()))
            n = leading.shape[0] if leading.ndim else 1
        where = first.where if len(items) == 1 else f"{first.where} to {items[-1].where}"
        return Sample(index, feeds, label, where, n)

    def _feed(self, name: str, items: list[Item]) -> Array:
        target, first = self._inputs[name], items[0]
        if name not in first.rows:
            whole = prepare(first.feeds[name], target, row=False, where=first.where)
            if any(not np.array_equal(item.feeds[name], first.feeds[name]) for item in items[1:]):
                raise DataError(
                    f"{first.where}: input {name!r} comes with its batch axis and cannot be "
                    f"grouped into a batch of {self.batch}; give it one row per sample"
                )
            return whole
        rows = [prepare(i.feeds[name], target, row=True, where=i.where) for i in items]
        if self._padded:
            rows += [rows[-1]] * (self.batch - len(rows))
        return rows[0][None] if len(rows) == 1 else stack(rows, first.where)


def stack(arrays: Sequence[Array], where: str) -> Array:
    """Return the arrays stacked along a new axis 0.

    Raises:
        DataError: their shapes differ.
    """
    shapes = {array.shape for array in arrays}
    if len(shapes) > 1:
        raise DataError(
            f"{where}: samples of shapes {' and '.join(map(str, sorted(shapes)))} cannot share a "
            "batch; use a batch of 1"
        )
    return np.stack(arrays)
