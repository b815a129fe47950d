"""A number that a budget asks for, found by few evaluations of what it leads to."""

from __future__ import annotations

from collections.abc import Callable
from math import isfinite, log2

TRIALS = 10
MAX_STEP = 6.0  # beyond, sizes are not linear any more


def solve(
    size: Callable[[float], float], wanted: float, start: float, *, slope: float, tolerance: float
) -> float:
    """Return x with size(x) within tolerance of, and not above, wanted, or the nearest found.

    size falls or rises with x about linearly; slope is a guess of how much. Secant steps, kept
    inside what is known to be too large and too small.
    """
    points: list[tuple[float, float]] = []
    x = start
    for _ in range(TRIALS):
        points.append((x, size(x)))
        if wanted * (1 - tolerance) <= points[-1][1] <= wanted:
            return x
        x = _next(points, wanted * (1 - tolerance / 2), slope)
    fitting = [(s, x) for x, s in points if s <= wanted]
    return max(fitting)[1] if fitting else min((s, x) for x, s in points)[1]


def _next(points: list[tuple[float, float]], wanted: float, slope: float) -> float:
    near = sorted(points, key=lambda p: abs(p[1] - wanted))[:2]
    if len(near) > 1 and near[0][0] != near[1][0] and near[0][1] != near[1][1]:
        found = (near[1][1] - near[0][1]) / (near[1][0] - near[0][0])
        slope = found if isfinite(found) and found * slope > 0 else slope
    step = (wanted - near[0][1]) / slope
    x = near[0][0] + max(-MAX_STEP, min(MAX_STEP, step))
    if _stuck(points, wanted):
        farther = min(2 * max(abs(points[-1][0] - points[-2][0]), MAX_STEP), 4 * MAX_STEP)
        x = points[-1][0] + (farther if step > 0 else -farther)
    below = [p[0] for p in points if p[1] <= wanted]
    above = [p[0] for p in points if p[1] > wanted]
    if below and above:
        low, high = _bracket(below, above, slope)
        if not min(low, high) < x < max(low, high):
            x = (low + high) / 2
    return x


def _stuck(points: list[tuple[float, float]], wanted: float) -> bool:
    """Return whether the last step hardly came nearer, from the same side: sizes are flat."""
    if len(points) < 2:
        return False
    before, last = wanted - points[-2][1], wanted - points[-1][1]
    return before * last > 0 and abs(last) > 0.8 * abs(before)


def _bracket(below: list[float], above: list[float], slope: float) -> tuple[float, float]:
    """Return the x nearest to each other of what is too small and too large."""
    return (max(below), min(above)) if slope > 0 else (min(below), max(above))


def allocate(costs: list[float], sizes: list[int], mean: float, most: float) -> list[float]:
    """Return the bits of each tensor whose last bit saves the same error, `mean` on average.

    Error falls by 4 with each bit, so bits = mean + log4(cost / its weighted geometric mean), cost
    the error per weight at 0 bits; at least 1 and at most `most`, for which the others make up.
    """
    logs = [log2(max(cost, 1e-300)) / 2 for cost in costs]
    low, high = mean - max(logs) - most, mean - min(logs) + most
    for _ in range(60):
        level = (low + high) / 2
        bits = [min(max(x + level, 1.0), most) for x in logs]
        found = sum(b * n for b, n in zip(bits, sizes, strict=True)) / max(sum(sizes), 1)
        low, high = (level, high) if found < mean else (low, level)
    return bits
