"""Table: named arrays that hold samples, and the rule for which axis counts them.

For an input of rank R, an array holds, by the first of these that its shape fits:

- rows:    one sample per row of axis 0, and the rest is the input without its batch axis
- samples: rank R + 1; every a[i] is fed as it is
- one:     a single sample without batch axis
- shared:  rank 0, for an input of rank 0: the same for every sample

Channels may be first or last, and an axis of 1 channel may be missing. Arrays of all inputs must
agree on the number of samples; where they do not, but all are what the model takes whole, batch
axis included, the arrays are one sample together.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from qtool.data.arrays import Opened, Stored, refuse_objects
from qtool.data.inputs import Input, cast_problem, find_arrangement, fits, shape_text
from qtool.data.samples import Item
from qtool.errors import DataError
from qtool.registry import unknown

Array = npt.NDArray[Any]
DEFAULT_LABELS = "y"  # name of the array of labels, which need not be there
CHECK_BYTES = 8 << 20  # read at a time when looking for NaN, and before pages are given back


class Table:
    """A source: arrays by input name, opened when first read."""

    kind = "samples"
    slow = False

    def __init__(
        self, arrays: Mapping[str, Stored], inputs: Sequence[Input], label: Stored | None, name: str
    ) -> None:
        self._arrays, self._label, self._name = arrays, label, name
        self._uses = _uses(arrays, inputs, name)
        self.n: int | None = _count(arrays, self._uses, name)
        self._single = not {"rows", "samples"} & set(self._uses.values())
        if label is not None and not self._single:
            _check_label(label, self.n)
        self._rows = frozenset(n for n, use in self._uses.items() if use in ("rows", "one"))
        self.floats = any(array.dtype.kind == "f" for array in arrays.values())
        self._opened: dict[str, Opened] = {}
        self._touched_bytes = 0
        self._lock = threading.Lock()

    def read(self, index: int) -> Item:
        """Return sample index."""
        feeds = {
            name: np.array(array if use in ("one", "shared", "whole") else array[index])
            for name, use in self._uses.items()
            for array in (self._open(self._arrays[name]),)
        }
        self._touch(sum(array.nbytes for array in feeds.values()))
        return Item(feeds, self._rows, self.label_of(index), self._where(index))

    def items(self) -> Iterator[Item]:
        """Yield all samples."""
        assert self.n is not None
        yield from map(self.read, range(self.n))

    def check(self, order: Sequence[int]) -> None:
        """Raise DataError naming the first of these samples that holds NaN or infinity."""
        for name, use in self._uses.items():
            array = self._open(self._arrays[name])
            if array.dtype.kind != "f":
                continue
            rows = array if use in ("rows", "samples") else array[None]
            step = max(1, CHECK_BYTES // max(1, rows[:1].nbytes))
            chosen = np.sort(np.asarray(order if use in ("rows", "samples") else [0]))
            for start in range(0, len(chosen), step):
                some = chosen[start : start + step]
                finite = np.isfinite(rows[some].reshape(len(some), -1)).all(axis=1)
                self._touch(rows[:1].nbytes * len(some))
                if not finite.all():
                    bad = int(some[int(np.argmin(finite))])
                    raise DataError(
                        f"{self._where(bad)}: input {name!r} holds NaN or infinite values"
                    )
        labels = self.labels(order)
        if labels is not None and labels.dtype.kind == "f" and not np.isfinite(labels).all():
            raise DataError(f"{self._name}: the labels hold NaN or infinite values")

    def labels(self, order: Sequence[int]) -> Array | None:
        """Return the labels of these samples."""
        if self._label is None:
            return None
        label = self._open(self._label)
        return label if self._single else label[np.asarray(order)]

    def integers(self, name: str) -> bool:
        """Tell whether the array of this input holds integers."""
        return self._arrays[name].dtype.kind in "iu"

    def close(self) -> None:
        """Forget the arrays; the next read opens them again."""
        with self._lock:
            self._opened.clear()

    def _open(self, array: Stored) -> Array:
        with self._lock:
            if array.name not in self._opened:
                self._opened[array.name] = array.open()
            return self._opened[array.name].values

    def _touch(self, n_bytes: int) -> None:
        """Give mapped pages back now and then, so that memory does not grow with the samples."""
        with self._lock:
            self._touched_bytes += n_bytes
            if self._touched_bytes > CHECK_BYTES:
                self._touched_bytes = 0
                for opened in self._opened.values():
                    opened.forget()

    def label_of(self, index: int) -> Array | None:
        """Return the label of sample index."""
        if self._label is None:
            return None
        label = self._open(self._label)
        return np.array(label if self._single else label[index])

    def _where(self, index: int) -> str:
        return self._name if self.n == 1 else f"{self._name} row {index}"


def choose_arrays(
    arrays: Mapping[str, Stored], inputs: Sequence[Input], name: str
) -> dict[str, Stored]:
    """Return the array of each input: of the input's name, or "x" for a model of one input.

    Raises:
        DataError: an input has none; names the closest array and all the others.
    """
    chosen = {}
    for target in inputs:
        keys = [target.name, "x", ""] if len(inputs) == 1 else [target.name]
        key = next((k for k in keys if k in arrays), None)
        if key is None:
            missing = unknown(target.name, arrays or {"nothing": None}, "array")
            raise DataError(f"{name}: {missing}; name the array as the input {target}"
                            f"{' or x' if len(inputs) == 1 else ''}")  # fmt: skip
        chosen[target.name] = arrays[key]
    return chosen


def choose_label(
    arrays: Mapping[str, Stored], key: str, wanted: bool | None, name: str
) -> Stored | None:
    """Return the array of labels; wanted: True must be there, None if there, False never.

    Raises:
        DataError: it must be there and is not, or it holds pickled objects.
    """
    if wanted is False:
        return None
    if key not in arrays:
        if wanted or key != DEFAULT_LABELS:  # what was typed must be there
            missing = unknown(key, arrays or {"nothing": None}, "array of labels")
            raise DataError(f"{name}: {missing}; name it with --label-key")
        return None
    refuse_objects(arrays[key].dtype, arrays[key].name)
    if arrays[key].dtype.kind not in "biuf":
        raise DataError(f"{arrays[key].name} are no numbers; give a class index for each sample")
    return arrays[key]


def _uses(arrays: Mapping[str, Stored], inputs: Sequence[Input], name: str) -> dict[str, str]:
    """Return how each input's array holds samples; see the head of this file."""
    uses = {}
    for target in inputs:
        array = arrays[target.name]
        refuse_objects(array.dtype, array.name)
        problem = cast_problem(array.dtype, target.dtype)
        if problem is not None:
            raise DataError(f"{array.name}: {problem} input {target}")
        uses[target.name] = _use(array, target)
    counts = {arrays[n].shape[0] for n, use in uses.items() if use in ("rows", "samples")}
    if len(counts) > 1 and all(
        t.shape is not None and fits(arrays[t.name].shape, t.shape) for t in inputs
    ):
        return dict.fromkeys(uses, "whole")
    return uses


def _use(array: Stored, target: Input) -> str:
    if target.shape is None:
        return "rows"
    rank, dims = len(array.shape), target.shape
    if rank >= 1 and len(dims) >= 1 and _takes(target, array, array.shape[1:]):
        return "rows"
    if rank == len(dims) + 1 and fits(array.shape[1:], dims):
        return "samples"
    if len(dims) >= 1 and _takes(target, array, array.shape):
        return "one"
    if rank == len(dims) == 0:
        return "shared"
    raise DataError(
        f"{array.name} has shape {shape_text(array.shape)}, which does not fit input {target}; "
        "axis 0 counts the samples, the rest is the input without its batch axis"
    )


def _takes(target: Input, array: Stored, shape: tuple[int, ...]) -> bool:
    """Tell whether an array of this shape can become one sample of the input."""
    item = target.item
    assert item is not None
    if find_arrangement(shape, item) is not None:
        return True
    pre = target.preprocess
    resizes = pre is not None and (pre.resize is not None or pre.crop is not None)
    picture = len(shape) == 2 or (len(shape) == 3 and (shape[-1] in (1, 3) or shape[0] in (1, 3)))
    return resizes and array.dtype == np.uint8 and len(item) == 3 and picture


def _count(arrays: Mapping[str, Stored], uses: Mapping[str, str], name: str) -> int:
    counts = {n: arrays[n].shape[0] for n, use in uses.items() if use in ("rows", "samples")}
    counts |= {n: 1 for n, use in uses.items() if use == "one"}
    if len(set(counts.values())) > 1:
        found = ", ".join(f"{n!r} {count}" for n, count in counts.items())
        raise DataError(f"{name}: the arrays hold different numbers of samples: {found}")
    n = next(iter(counts.values()), 1)
    if n == 0:
        raise DataError(f"{name} holds no samples")
    for array in arrays.values():
        if 0 in array.shape:
            raise DataError(f"{array.name} is empty: its shape is {shape_text(array.shape)}")
    return n


def _check_label(label: Stored, n: int | None) -> None:
    found = label.shape[0] if label.shape else 1
    if not label.shape or found != n:
        raise DataError(f"{label.name}: {found} labels for {n} samples")
