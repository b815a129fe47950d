"""Numbers and names as a reader of the page sees them."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence

UNITS = ("bytes", "KB", "MB", "GB", "TB")
LONGEST = 200  # characters of a name that are shown


def plain(name: str, most: int = LONGEST) -> str:
    """Return a name without control characters, its middle left out where it is too long."""
    shown = re.sub(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]", "\ufffd", name)
    if len(shown) <= most:
        return shown
    tail = (most - 1) * 2 // 3
    return f"{shown[: most - 1 - tail]}…{shown[-tail:]}"


def shared_prefix(names: Sequence[str]) -> str:
    """Return what all names begin with, up to the end of a part: "model/stem/"."""
    start = os.path.commonprefix(list(names)) if len(names) > 1 else ""
    return start[: max(start.rfind(end) for end in "/.:") + 1]


def size(n_bytes: float) -> str:
    """Return a number of bytes in decimal units: 120.6 KB."""
    value, unit = float(n_bytes), 0
    while value >= 999.5 and unit < len(UNITS) - 1:
        value, unit = value / 1000, unit + 1
    return f"{n_bytes:.0f} {UNITS[0]}" if unit == 0 else f"{_three(value)} {UNITS[unit]}"


def count(number: float) -> str:
    """Return a large count with three digits: 2.36 M."""
    value, unit = float(number), 0
    units = ("", "k", "M", "G", "T", "P")
    while value >= 999.5 and unit < len(units) - 1:
        value, unit = value / 1000, unit + 1
    return f"{number:.0f}" if unit == 0 else f"{_three(value)} {units[unit]}"


def whole(number: int) -> str:
    """Return a whole number with its thousands apart."""
    return f"{number:,}"


def digits(value: float | None, places: int = 2) -> str:
    """Return a number with so many places; empty where there is none."""
    if value is None or math.isnan(value):
        return ""
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    return f"{value:.{places}f}".replace("-", "−")


def short(value: float | None) -> str:
    """Return a number with four significant digits."""
    if value is None:
        return ""
    return f"{value:.4g}".replace("-", "−")


def share(value: float | None) -> str:
    """Return a part of one in percent; neither 0 nor 100 unless it is just that."""
    if value is None:
        return ""
    percent = 100 * value
    if value and percent < 0.01:
        return "< 0.01 %"
    if value < 1 and percent > 99.99:
        return "> 99.99 %"
    return f"{percent:.3g} %" if percent < 100 else "100 %"


def _three(value: float) -> str:
    return (
        f"{value:.0f}" if value >= 99.95 else f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"
    )


def shape(dims: Sequence[int | str | None] | None) -> str:
    """Return a shape as [1, 3, 224, 224]."""
    if dims is None:
        return ""
    return f"[{', '.join('?' if d is None else plain(str(d), 40) for d in dims)}]"
