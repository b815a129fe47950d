"""The one way to read a registry."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import TypeVar

from qtool.errors import UsageError

T = TypeVar("T")

MOST_NAMES = 40  # that a message lists


def lookup(registry: Mapping[str, T], name: str, kind: str) -> T:
    """Return registry[name].

    Raises:
        UsageError: there is no such entry; names the closest one and all the others.
    """
    if name in registry:
        return registry[name]
    raise unknown(name, registry, kind)


def unknown(name: str, known: Mapping[str, object], kind: str) -> UsageError:
    """Return the error for a name that is not among the known ones."""
    close = get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    names = sorted(known)
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return UsageError(
        f"no {kind} named {name!r}: {hint}known: {', '.join(names[:MOST_NAMES])}{more}"
    )
