"""Running models: in onnxruntime, and in the native runtime."""

from __future__ import annotations

from typing import Any

__all__ = ["Session"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'qtool.runtime' has no attribute {name!r}")
    from qtool.runtime.native import Session

    return Session
