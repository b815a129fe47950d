"""Names and values that come from a file, as a message may show them."""

from __future__ import annotations

MAX_SHOWN = 80


def quoted(value: object) -> str:
    """Return repr(value) on one printable line, cut where it is long."""
    text = repr(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."
