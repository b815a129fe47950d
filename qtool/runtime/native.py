"""Session: a model in the native runtime, with the interface of onnxruntime.InferenceSession."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

import numpy as np

from qtool import _native
from qtool.errors import DataError, QtoolError, UsageError
from qtool.model import Model, TensorSpec
from qtool.runtime.lower import lower
from qtool.runtime.program import Array, Program

MAX_PROGRAMS = 16  # kept, of the input shapes used last

Shapes = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class OpTime:
    """What one op of a Program took."""

    name: str  # of the node that it comes from
    op: str
    kernel: str
    ms: float  # mean
    macs: int  # multiply-accumulates
    n_bytes: int  # read and written


class Session:
    """A model in the native int8 runtime.

    run() may be called from several threads at once; the interpreter's lock is not held while it
    computes. A Program is made for each combination of input shapes, when it is first seen.

    Raises:
        UnsupportedError: the model has nodes that the runtime cannot run; all are named.
        UsageError: isa, or QTOOL_ISA, names no instruction set.
    """

    def __init__(
        self, source: str | PathLike[str] | Model, threads: int = 1, isa: str | None = None
    ) -> None:
        model = source if isinstance(source, Model) else _loaded(source)
        self._model = model
        self._threads, self._isa = threads, isa or ""
        self._inputs, self._outputs = model.inputs(), model.outputs()
        self._input_names = [spec.name for spec in self._inputs]
        self._output_names = [spec.name for spec in self._outputs]
        self._lock = threading.Lock()
        self._programs: OrderedDict[Shapes, tuple[Any, Program]] = OrderedDict()
        self._last: Any = None
        if all(isinstance(d, int) for spec in self._inputs for d in spec.shape or (None,)):
            self._last = self._prepared(tuple(_fixed(spec) for spec in self._inputs))[0]

    def get_inputs(self) -> list[TensorSpec]:
        """Return what must be fed."""
        return list(self._inputs)

    def get_outputs(self) -> list[TensorSpec]:
        """Return what run() computes."""
        return list(self._outputs)

    def run(
        self, output_names: Sequence[str] | None, input_feed: Mapping[str, Array]
    ) -> list[Array]:
        """Return the outputs of these names, or all.

        Raises:
            DataError: an input is missing, unknown, or of another type or shape.
        """
        outputs = None
        native = self._last
        if native is not None and len(input_feed) == len(self._input_names):
            try:
                outputs = native.run([input_feed[name] for name in self._input_names])
            except (KeyError, TypeError):
                outputs = None
        if outputs is None:
            arrays = self._checked(input_feed)
            native, _ = self._prepared(tuple(x.shape for x in arrays))
            self._last = native
            outputs = native.run(arrays)
        if output_names is None:
            return outputs  # type: ignore[no-any-return]
        return [outputs[self._position(name)] for name in output_names]

    def profile(self, input_feed: Mapping[str, Array], times: int = 10) -> list[OpTime]:
        """Return the mean time of each op over some runs."""
        arrays = self._checked(input_feed)
        native, program = self._prepared(tuple(x.shape for x in arrays))
        native.run(arrays)
        found = native.profile(arrays, times)
        return [
            OpTime(
                op.name, name, kernel, ms, op.macs, sum(t.size * t.item_bytes for t in op.tensors())
            )
            for op, (name, kernel, ms) in zip(program.ops, found, strict=True)
        ]

    def program(self, shapes: Mapping[str, Sequence[int]] | None = None) -> Program:
        """Return the Program for inputs of these shapes, by default those that the model fixes."""
        given = shapes or {}
        return self._prepared(
            tuple(tuple(given.get(spec.name, ())) or _fixed(spec) for spec in self._inputs)
        )[1]

    def _prepared(self, shapes: Shapes) -> tuple[Any, Program]:
        with self._lock:
            if shapes in self._programs:
                self._programs.move_to_end(shapes)
                return self._programs[shapes]
            program = lower(self._model, dict(zip(self._input_names, shapes, strict=True)))
            try:
                native = _native.Session(*program.parts(), threads=self._threads, isa=self._isa)
            except ValueError as error:
                raise UsageError(str(error)) from error
            self._programs[shapes] = native, program
            if len(self._programs) > MAX_PROGRAMS:
                self._programs.popitem(last=False)
            return native, program

    def _position(self, name: str) -> int:
        if name not in self._output_names:
            raise DataError(
                f"no output named {name!r}: the model has {', '.join(self._output_names)}"
            )
        return self._output_names.index(name)

    def _checked(self, feed: Mapping[str, Array]) -> list[Array]:
        for name in feed:
            if name not in self._input_names:
                known = ", ".join(self._input_names)
                raise DataError(f"no input named {name!r}: the model takes {known}")
        return [_checked(spec, feed) for spec in self._inputs]


def _loaded(path: str | PathLike[str]) -> Model:
    import qtool  # formats are not below this layer; the library as a whole is

    model: Model = qtool.load(path)
    return model


def _checked(spec: TensorSpec, feed: Mapping[str, Array]) -> Array:
    if spec.name not in feed:
        raise DataError(f"input {spec.name!r} is not fed; the model takes {spec}")
    array = np.asarray(feed[spec.name])
    if str(array.dtype) != spec.dtype:
        raise DataError(f"input {spec.name!r} is {array.dtype}, but {spec.dtype} is needed")
    dims = spec.shape
    if dims is not None:
        fits = len(dims) == array.ndim and all(
            not isinstance(d, int) or d == n for d, n in zip(dims, array.shape, strict=True)
        )
        if not fits:
            raise DataError(f"input {spec.name!r} has shape {list(array.shape)}; it is {spec}")
    return np.require(array, requirements=["C", "A"])


def _fixed(spec: TensorSpec) -> tuple[int, ...]:
    dims = tuple(d for d in spec.shape or () if isinstance(d, int))
    if spec.shape is None or len(dims) != len(spec.shape):
        raise QtoolError(f"the shape of input {spec.name!r} is open: {spec}")
    return dims


__all__ = ["OpTime", "Session"]
