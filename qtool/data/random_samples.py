"""Random samples, for trying things out without data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from qtool.data.inputs import Input
from qtool.data.samples import Item
from qtool.errors import DataError

Array = npt.NDArray[Any]
DEFAULT_N = 32


class MadeSamples:
    """What sources that make their samples up have in common."""

    n: int | None

    def read(self, index: int) -> Item:
        """Return sample index."""
        raise NotImplementedError

    def items(self) -> Iterator[Item]:
        """Yield all samples."""
        assert self.n is not None
        yield from map(self.read, range(self.n))

    def check(self, order: Sequence[int]) -> None:
        """Nothing can be wrong with them."""

    def labels(self, order: Sequence[int]) -> Array | None:
        """Return None: there are none."""
        return None


class RandomSamples(MadeSamples):
    """A source: standard normal floats, all values of 8-bit integers, 0 or 1 for the others.

    Sample i depends on the seed and i only. rows says that the first axis of the inputs is the
    batch; what has no axis at all is then the same in every sample.
    """

    kind = "random"
    slow = False
    floats = True

    def __init__(self, inputs: Sequence[Input], n: int | None, seed: int, *, rows: bool) -> None:
        self._inputs = [(target, random_shape(target)) for target in inputs]
        self._seed, self._rows = seed & (2**64 - 1), rows
        self.n: int | None = DEFAULT_N if n is None else n

    def read(self, index: int) -> Item:
        """Return sample index."""
        rng = np.random.default_rng([self._seed, index])
        feeds, rows = {}, set()
        for target, shape in self._inputs:
            if not self._rows:
                feeds[target.name] = _values(rng, target, shape)
            elif shape:
                feeds[target.name] = _values(rng, target, shape[1:])
                rows.add(target.name)
            else:
                feeds[target.name] = _values(np.random.default_rng(self._seed), target, shape)
        return Item(feeds, frozenset(rows), None, f"random sample {index}")

    def integers(self, name: str) -> bool:
        """Return False: they are made to fit."""
        return False


def random_shape(target: Input) -> tuple[int, ...]:
    """Return the input's shape, with 1 for a dynamic batch axis.

    Raises:
        DataError: another dim is dynamic; says how to set it.
    """
    if target.shape is None:
        raise DataError(f"input {target.name!r} has no known rank; give samples with --data")
    for axis, dim in enumerate(target.shape):
        if axis > 0 and not isinstance(dim, int):
            name = dim if dim is not None else f"axis {axis}"
            raise DataError(
                f"input {target}: the size of {name} is not known; set it with "
                f"`qtool freeze --set-dim {dim or 'NAME'}=SIZE`, or give samples with --data"
            )
    return tuple(dim if isinstance(dim, int) else 1 for dim in target.shape)


def _values(rng: np.random.Generator, target: Input, shape: tuple[int, ...]) -> Array:
    if target.dtype.kind in "iu" and target.dtype.itemsize == 1:
        info = np.iinfo(target.dtype)
        return rng.integers(info.min, info.max, shape, target.dtype, endpoint=True)
    if target.dtype.kind in "iub":
        return rng.integers(0, 2, shape).astype(target.dtype)
    return rng.standard_normal(shape, np.float32).astype(target.dtype)
