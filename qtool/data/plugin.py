"""Samples from the user's own Python: module:function, or path/to/file.py:function."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qtool.data.arrays import stored
from qtool.data.inputs import Input
from qtool.data.samples import Item
from qtool.data.table import Table, choose_arrays, choose_label
from qtool.errors import DataError, UsageError
from qtool.registry import unknown

Array = npt.NDArray[Any]
log = logging.getLogger("qtool")


class Plugin:
    """A source: what a function yields; it is called again for every pass.

    It yields arrays, (array, label) pairs, or dicts of arrays by input name, which may hold a
    label: each one sample or a batch of them, by the rule of qtool.data.table. Where it returns
    a sequence of samples instead (len and [i]), these are read by index.
    """

    kind = "samples"
    slow = False
    floats = True

    def __init__(
        self, name: str, inputs: Sequence[Input], label_key: str, labels: bool | None
    ) -> None:
        self._name, self._inputs, self._labels = name, inputs, labels
        self._label_key, self._function = label_key, load_function(name)
        self.n: int | None = None

    def read(self, index: int) -> Item:
        """Not possible: what comes is known when it comes."""
        raise TypeError(f"{self._name} can only be iterated")

    def items(self) -> Iterator[Item]:
        """Yield all samples, calling the function anew."""
        for number, given in enumerate(self._call()):
            yield from self._table(given, f"{self._name} item {number}").items()

    def check(self, order: Sequence[int]) -> None:
        """Nothing is known before it comes."""

    def integers(self, name: str) -> bool:
        """Return False: nothing is known before it comes."""
        return False

    def labels(self, order: Sequence[int]) -> Array | None:
        """Return None: nothing is known before it comes."""
        return None

    def _call(self) -> Iterator[Any]:
        try:
            yield from self._function()
        except (Exception, SystemExit) as error:
            log.debug("%s failed", self._name, exc_info=True)
            raise DataError(
                f"{self._name} failed: {type(error).__name__}: {error}; see -v for where"
            ) from error

    def _table(self, given: Any, name: str) -> Table:
        if isinstance(given, tuple) and len(given) == 2 and not isinstance(given[0], Mapping):
            given = {"x": given[0], self._label_key: given[1]}
        elif isinstance(given, tuple) and len(given) == 2:
            given = {**given[0], self._label_key: given[1]}
        elif not isinstance(given, Mapping):
            given = {"x": given}
        arrays = {
            key: stored(_array(v, f"{name} {key!r}"), f"{name}: {key!r}")
            for key, v in given.items()
        }
        label = choose_label(arrays, self._label_key, self._labels, name)
        return Table(choose_arrays(arrays, self._inputs, name), self._inputs, label, name)


def _array(value: Any, name: str) -> Array:
    """Return value as an array of numbers.

    Raises:
        DataError: it is none.
    """
    try:
        array = np.asarray(value)
    except Exception as error:
        raise DataError(f"{name} is not an array: {type(error).__name__}: {error}") from None
    if array.dtype.hasobject:
        raise DataError(f"{name} is a {type(value).__name__}, not an array of numbers")
    return array


def load_function(name: str) -> Callable[..., Any]:
    """Return the function that module:function or file.py:function names.

    Raises:
        UsageError: there is no such module or function, or importing it fails.
    """
    place, _, attribute = name.rpartition(":")
    try:
        module = _load_file(Path(place)) if place.endswith(".py") else _import(place)
    except (Exception, SystemExit) as error:
        log.debug("importing %s failed", place, exc_info=True)
        raise UsageError(f"cannot import {place}: {type(error).__name__}: {error}") from None
    found = getattr(module, attribute, None)
    if not callable(found):
        known = {k: v for k, v in vars(module).items() if callable(v) and k[0] != "_"}
        raise UsageError(f"{place}: {unknown(attribute, known or {'none': None}, 'function')}")
    return found  # type: ignore[no-any-return]


def _import(name: str) -> Any:
    sys.path.insert(0, "")
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove("")


def _load_file(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
