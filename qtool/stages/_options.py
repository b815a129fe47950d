"""The options of a stage as its history keeps them."""

from __future__ import annotations

from dataclasses import fields
from typing import Any


def changed(options: Any) -> dict[str, Any]:
    """Return the fields of a dataclass instance that differ from their defaults; tuples as lists.

    An instance of the same class made of them is equal to options.
    """
    pairs = ((f.name, getattr(options, f.name), f.default) for f in fields(options))
    return {n: list(v) if isinstance(v, tuple) else v for n, v, d in pairs if v != d}


def drawn(data: Any) -> dict[str, Any]:
    """Return where the samples come from, for the history; nothing without samples."""
    return {} if data is None else {"source": getattr(data, "source", "samples")}
