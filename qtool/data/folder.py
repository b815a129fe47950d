"""A folder of .npy/.npz files: each holds some samples, or each the array of one input."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qtool.data.inputs import Input
from qtool.data.samples import Item
from qtool.data.table import Table

Array = npt.NDArray[Any]
MAX_OPEN = 4  # tables that keep their arrays open


class Tables:
    """A source: tables one after another, of which a few are open at a time."""

    kind = "samples"
    slow = False

    def __init__(self, tables: Sequence[Table]) -> None:
        self._tables = tables
        self.floats = any(table.floats for table in tables)
        self._starts = [0, *accumulate(table.n or 0 for table in tables)]
        self.n: int | None = self._starts[-1]
        self._recent: OrderedDict[int, None] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, index: int) -> Item:
        """Return sample index of all tables together."""
        place = bisect_right(self._starts, index) - 1
        item = self._tables[place].read(index - self._starts[place])
        self._close_others(place)
        return item

    def items(self) -> Iterator[Item]:
        """Yield the samples of all tables."""
        yield from map(self.read, range(self._starts[-1]))

    def check(self, order: Sequence[int]) -> None:
        """Check each table's part."""
        chosen = np.sort(np.asarray(order))
        for place, table in enumerate(self._tables):
            start, end = self._starts[place : place + 2]
            mine = chosen[(chosen >= start) & (chosen < end)] - start
            if len(mine):
                table.check(mine.tolist())
                self._close_others(place)

    def integers(self, name: str) -> bool:
        """Tell whether the first file's array of this input holds integers."""
        return self._tables[0].integers(name)

    def labels(self, order: Sequence[int]) -> Array | None:
        """Return the labels of these samples; None if a table has none."""
        found = [self._label_of(index) for index in order]
        labels = [label for label in found if label is not None]
        same = len({label.shape for label in labels}) == 1
        return np.stack(labels) if len(labels) == len(found) and same else None

    def _label_of(self, index: int) -> Array | None:
        place = bisect_right(self._starts, index) - 1
        label = self._tables[place].label_of(index - self._starts[place])
        self._close_others(place)
        return label

    def _close_others(self, place: int) -> None:
        with self._lock:
            self._recent[place] = None
            self._recent.move_to_end(place)
            while len(self._recent) > MAX_OPEN:
                old, _ = self._recent.popitem(last=False)
                self._tables[old].close()


def array_files(folder: Path) -> list[Path]:
    """Return the .npy and .npz files of a folder, sorted by name."""
    return sorted(
        p for p in folder.iterdir() if p.suffix.lower() in (".npy", ".npz") and p.is_file()
    )


def is_one_table(files: Sequence[Path], inputs: Sequence[Input]) -> bool:
    """Tell whether the .npy files are the arrays of the inputs by name, not some samples each."""
    stems = {p.stem for p in files if p.suffix == ".npy"}
    names = {target.name for target in inputs}
    return names <= stems or (len(names) == 1 and "x" in stems)
