"""A figure of size against drop as plain SVG."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from math import ceil, floor, log10

WIDTH, HEIGHT = 720, 400
LEFT, RIGHT, TOP, BOTTOM = 70, 20, 20, 50
INK, GRID, LINE, CHOSEN, LIMIT = "#222", "#ddd", "#4a78b5", "#c4572b", "#999"

Point = tuple[float, float, "tuple[float, float] | None", bool]


def figure(points: Sequence[Point], *, y_label: str, limit: float | None = None) -> str:
    """Return the SVG of points (bytes, drop, 95 % interval of it, whether chosen)."""
    bars = [end for p in points if p[2] for end in p[2]]
    shown = [p[1] for p in points] + bars + [0.0] + ([] if limit is None else [limit])
    xs, ys = [p[0] for p in points], shown
    place_x, x_ticks = _axis(min(xs), max(xs), LEFT, WIDTH - RIGHT)
    place_y, y_ticks = _axis(min(ys), max(ys), HEIGHT - BOTTOM, TOP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'font-family="sans-serif" font-size="12" fill="{INK}">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
    ]
    for tick in x_ticks:
        x = place_x(tick)
        parts.append(_line(x, TOP, x, HEIGHT - BOTTOM, GRID))
        parts.append(_text(x, HEIGHT - BOTTOM + 18, f"{tick / 1000:,.0f} kB", "middle"))
    for tick in y_ticks:
        y = place_y(tick)
        parts.append(_line(LEFT, y, WIDTH - RIGHT, y, GRID))
        parts.append(_text(LEFT - 8, y + 4, f"{tick:g}", "end"))
    if limit is not None:
        y = place_y(limit)
        parts.append(_line(LEFT, y, WIDTH - RIGHT, y, LIMIT, 'stroke-dasharray="5 4"'))
    ordered = sorted(points)
    path = " ".join(f"{place_x(p[0]):.1f},{place_y(p[1]):.1f}" for p in ordered)
    parts.append(f'<polyline points="{path}" fill="none" stroke="{LINE}" stroke-width="1.5"/>')
    for n_bytes, drop, interval, chosen in ordered:
        x, color = place_x(n_bytes), CHOSEN if chosen else LINE
        if interval is not None:
            parts.append(_line(x, place_y(interval[0]), x, place_y(interval[1]), color))
        radius = 7 if chosen else 4
        parts.append(f'<circle cx="{x:.1f}" cy="{place_y(drop):.1f}" r="{radius}" fill="{color}"/>')
    parts.append(_text((LEFT + WIDTH) / 2, HEIGHT - 12, "packed file", "middle"))
    parts.append(
        f'<text transform="translate(16 {HEIGHT / 2:.0f}) rotate(-90)" text-anchor="middle">'
        f"{escape(y_label)}</text></svg>\n"
    )
    return "\n".join(parts)


def _axis(
    low: float, high: float, start: float, end: float
) -> tuple[Callable[[float], float], list[float]]:
    """Return where a value goes, and round values to mark."""
    margin = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
    low, high = low - margin, high + margin
    rough = (high - low) / 5
    unit = 10 ** floor(log10(rough))
    step = next(unit * m for m in (1, 2, 5, 10) if unit * m >= rough)
    ticks = [i * step for i in range(ceil(low / step), floor(high / step) + 1)]
    return lambda value: start + (value - low) / (high - low) * (end - start), ticks


def _line(x1: float, y1: float, x2: float, y2: float, color: str, more: str = "") -> str:
    ends = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line {ends} stroke="{color}" {more}/>'


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
