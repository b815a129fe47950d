"""Running models: in onnxruntime, and in the native runtime."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from qtool.runtime.native import Session

__all__ = ["RUNTIMES", "Runner", "Session"]


class Runner(Protocol):
    """A model that is ready to run. run() may be called from several threads at once."""

    def run(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        """Return the outputs by name."""

    def cancel(self) -> None:
        """Make every later run() fail, and those under way as far as the runtime can."""


def _onnxruntime(*args: Any, **options: Any) -> Runner:
    from qtool.runtime.ort import OrtSession

    return OrtSession(*args, **options)


def _native(*args: Any, **options: Any) -> Runner:
    from qtool.runtime.named import NativeSession

    return NativeSession(*args, **options)


#: Each makes a Runner of (model, *, outputs=None, threads=1), and imports its runtime only then.
RUNTIMES: dict[str, Callable[..., Runner]] = {"onnxruntime": _onnxruntime, "native": _native}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'qtool.runtime' has no attribute {name!r}")
    from qtool.runtime.native import Session

    return Session
