"""NativeSession: the native runtime with OrtSession's interface."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from qtool.errors import QtoolError
from qtool.model import Model
from qtool.runtime.native import Session
from qtool.runtime.ort import Array, Feeds
from qtool.runtime.outputs import with_outputs
from qtool.shapes import infer_shapes


class NativeSession:
    """A model in the native runtime that returns its outputs by name.

    outputs names the tensors that run() returns: graph outputs by default, else any tensors of
    the main graph. run() may be called from several threads at once.

    Raises:
        UnsupportedError: the model has nodes that the runtime cannot run; all are named.
    """

    def __init__(
        self, model: Model, *, outputs: Sequence[str] | None = None, threads: int = 1
    ) -> None:
        if outputs is not None:
            typed = infer_shapes(model)
            model = replace(typed, ir=with_outputs(typed.ir, outputs))
        self.output_names = [o.name for o in model.outputs()]
        self._session = Session(model, threads)
        self._cancelled = False

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """Return the outputs by name.

        Raises:
            QtoolError: the inputs do not fit, or cancel() has been called.
        """
        if self._cancelled:
            raise QtoolError("the run was cancelled")
        values = self._session.run(None, feeds)
        return dict(zip(self.output_names, values, strict=True))

    def cancel(self) -> None:
        """Make every later run() fail; one that is under way ends by itself, and soon."""
        self._cancelled = True
