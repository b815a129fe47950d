"""Standard input and output that are a terminal, where bytes of a model have no place."""

from __future__ import annotations

from typing import TextIO

from qtool.errors import UsageError


def refuse_terminal(stream: TextIO | None, name: str, advice: str) -> None:
    """Refuse a standard stream (input or output) that is a terminal, or closed.

    Raises:
        UsageError: it is.
    """
    if stream is None or stream.isatty():
        what = "closed" if stream is None else "a terminal"
        raise UsageError(f"standard {name} is {what}; {advice}, or name a file")
