"""Samples as small pictures or curves, for a report."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from qtool.data import Sample, Samples
from qtool.data.preprocess import Preprocess, from_json
from qtool.stages._report_samples import Seen

Array = npt.NDArray[Any]
MAX_SIDE = 160  # pixels of a thumbnail
SMALL_SIDE = 64  # up to here a picture is kept as it is, without loss
MIN_SIDE = 6
MAX_POINTS = 160  # of a curve: pairs of smallest and largest
MAX_PICTURE_SIDE = 8192


@dataclass(frozen=True)
class Picture:
    """One sample as PNG or JPEG bytes of width x height, or as the (low, high) of a curve."""

    media: str
    content: bytes
    size: tuple[int, int]
    curve: tuple[tuple[float, float], ...] = ()


def pictures(
    data: Samples, chosen: Sequence[Seen], preprocess: Mapping[str, Any] | None
) -> list[Picture | None]:
    """Return a picture of each chosen sample, or None where its input is neither."""
    wanted: dict[int, list[int]] = {}
    for place, seen in enumerate(chosen):
        wanted.setdefault(seen.feed, []).append(place)
    known = None if not preprocess else from_json(preprocess)
    found: list[Picture | None] = [None] * len(chosen)
    for sample in _samples(data, sorted(wanted)):
        for place in wanted[sample.index]:
            found[place] = picture(sample, chosen[place].row, known)
    return found


def _samples(data: Samples, feeds: Sequence[int]) -> Iterable[Sample]:
    if data.n is not None:
        return (data[feed] for feed in feeds)
    return (sample for sample in data if sample.index in feeds) if feeds else ()


def picture(sample: Sample, row: int, preprocess: Preprocess | None) -> Picture | None:
    """Return a picture of one row of a sample: of its first input that looks like one."""
    rows = [_row(feed, row, sample.n) for feed in sample.feeds.values()]
    for values in rows:
        pixels = None if values is None else _pixels(values, preprocess)
        if pixels is not None:
            return _encoded(pixels)
    for values in rows:
        if (
            values is not None
            and values.dtype.kind == "f"
            and 2 <= values.size == max(values.shape)
        ):
            return _curve(values.reshape(-1))
    return None


def _row(feed: Array, row: int, n: int) -> Array | None:
    if feed.ndim < 2 or feed.dtype.kind not in "iuf":
        return None
    return feed[row] if feed.shape[0] > row else None


def _pixels(values: Array, preprocess: Preprocess | None) -> Array | None:
    """Return (H, W) or (H, W, 3) uint8 of what looks like a picture, its preprocessing undone."""
    layout = "" if preprocess is None else preprocess.layout or ""
    if values.ndim == 2:
        values = values[..., None]
    elif values.ndim == 3 and values.shape[0] in (1, 3) and layout != "NHWC":
        values = np.moveaxis(values, 0, -1)
    if values.ndim != 3 or values.shape[-1] not in (1, 3):
        return None
    if not all(MIN_SIDE <= side <= MAX_PICTURE_SIDE for side in values.shape[:2]):
        return None
    raw = _undone(values.astype(np.float64), preprocess)
    return raw[..., 0] if raw.shape[-1] == 1 else raw


def _undone(values: Array, preprocess: Preprocess | None) -> Array:
    """Return the values as 0..255: by the inverse of the preprocessing, else from end to end."""
    values = np.nan_to_num(values, posinf=0.0, neginf=0.0)
    if preprocess is not None:
        raw = values
        if preprocess.std:
            raw = raw * np.array(preprocess.std)
        if preprocess.mean:
            raw = raw + np.array(preprocess.mean)
        raw = raw / (preprocess.scale or 1.0)
        if preprocess.channels == "BGR" and raw.shape[-1] == 3:
            raw = raw[..., ::-1]
        if raw.min() >= -1 and 1.5 < raw.max() <= 256:
            return np.asarray(np.clip(np.rint(raw), 0, 255), np.uint8)
    low, high = float(values.min()), float(values.max())
    return np.asarray(np.rint((values - low) * (255 / ((high - low) or 1.0))), np.uint8)


def _encoded(pixels: Array) -> Picture:
    from PIL import Image

    image = Image.fromarray(np.ascontiguousarray(pixels))
    small = max(image.size) <= SMALL_SIDE
    image.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    if small:
        image.save(file, "PNG", optimize=True)
    else:
        image.save(file, "JPEG", quality=82, optimize=True)
    return Picture("image/png" if small else "image/jpeg", file.getvalue(), image.size)


def _curve(values: Array) -> Picture:
    """Return a curve of at most MAX_POINTS pieces, each its smallest and largest value."""
    finite = np.nan_to_num(values.astype(np.float64), posinf=0.0, neginf=0.0)
    parts = np.array_split(finite, min(MAX_POINTS, finite.size))
    return Picture("", b"", (0, 0), tuple((float(p.min()), float(p.max())) for p in parts))
