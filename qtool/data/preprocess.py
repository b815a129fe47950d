"""Preprocess: how pictures and raw arrays become the numbers a model takes.

value = (x * scale - mean) / std        x: the channel's raw value, 0..255 for pictures
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from qtool.errors import DataError, UsageError
from qtool.registry import unknown

if TYPE_CHECKING:
    from PIL import Image

Array = npt.NDArray[Any]
MAX_PIXELS = 89_000_000  # Pillow warns of decompression bombs above that
CHANNELS = {"RGB": "RGB", "BGR": "RGB", "GRAY": "L"}  # name -> Pillow mode it is decoded in
LAYOUTS = ("NCHW", "NHWC")
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")


@dataclass(frozen=True)
class Preprocess:
    """What is done to every sample, in the order of the fields.

    resize: the shorter side, or (height, width). crop: (height, width) of the centre. layout:
    the model's. mean and std: () for none, one value, or one per channel in the order of
    channels; after scale. floats: do it to floating-point arrays too, which else count as done.
    inputs: names of the inputs it is for; () for those that look like pictures, or the only one.
    """

    channels: str = "RGB"
    resize: int | tuple[int, int] | None = None
    interpolation: str = "bilinear"
    crop: tuple[int, int] | None = None
    layout: str | None = None
    scale: float = 1.0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    dtype: str | None = None
    floats: bool = False
    inputs: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that from_json reads: channels, and what is not the default."""
        given = {
            f.name: getattr(self, f.name)
            for f in fields(self)
            if f.name == "channels" or getattr(self, f.name) != f.default
        }
        return {k: list(v) if isinstance(v, tuple) else v for k, v in given.items()}

    @property
    def changes_values(self) -> bool:
        """Whether values are scaled or shifted."""
        return self.scale != 1.0 or bool(self.mean) or bool(self.std)

    def applies_to(self, dtype: np.dtype[Any]) -> bool:
        """Tell whether raw arrays of this dtype are preprocessed: integers, and floats if told."""
        return dtype.kind in "iu" or (dtype.kind == "f" and self.floats)

    def geometry(self, raw: Array, dims: Sequence[Any] | None) -> Array:
        """Return a raw uint8 picture resized and cropped where its size does not fit dims yet.

        raw: (H, W), (H, W, C) or (C, H, W); the result is (H, W, C) or (H, W) if resized.
        """
        if self.resize is None and self.crop is None:
            return raw
        if raw.dtype != np.uint8 or dims is None or len(dims) != 3 or raw.ndim not in (2, 3):
            return raw
        height, width = dims[:2] if self.layout == "NHWC" else dims[1:]
        pixels = raw
        if raw.ndim == 3 and raw.shape[-1] not in (1, 3):
            pixels = np.moveaxis(raw, 0, -1)
        sizes = zip(pixels.shape[:2], (height, width), strict=True)
        if all(have == want or not isinstance(want, int) for have, want in sizes):
            return raw
        if pixels.ndim == 3 and pixels.shape[-1] not in (1, 3):
            return raw  # not a picture: the shape check says so
        from PIL import Image

        return self.picture(
            Image.fromarray(
                np.squeeze(pixels, 2) if pixels.shape[-1] == 1 and pixels.ndim == 3 else pixels
            )
        )

    def picture(self, image: Image.Image) -> Array:
        """Return a Pillow image converted, resized and cropped: uint8 (H, W) or (H, W, 3) RGB.

        Raises:
            DataError: it is too small to crop from, or would become too large.
        """
        from PIL import Image

        image = image.convert(CHANNELS[self.channels])
        if self.resize is not None:
            size = self._resized(image.width, image.height)
            if size[0] * size[1] > MAX_PIXELS or 0 in size:
                raise DataError(
                    f"a picture of {image.width}x{image.height} would become {size[0]}x{size[1]}; "
                    f"1 to {MAX_PIXELS} pixels are possible"
                )
            if size != image.size:
                method = Image.Resampling[self.interpolation.upper()]
                image = image.resize(size, method)
        if self.crop is not None:
            height, width = self.crop
            if width > image.width or height > image.height:
                raise DataError(
                    f"a picture of {image.width}x{image.height} is too small to crop "
                    f"{width}x{height} from; set resize in the preprocessing"
                )
            left, top = (image.width - width) // 2, (image.height - height) // 2
            image = image.crop((left, top, left + width, top + height))
        return np.asarray(image)

    def _resized(self, width: int, height: int) -> tuple[int, int]:
        """Return (width, height) after resize; the longer side is rounded down."""
        if isinstance(self.resize, tuple):
            return self.resize[1], self.resize[0]
        assert self.resize is not None
        if width <= height:
            return self.resize, int(self.resize * height / width)
        return int(self.resize * width / height), self.resize

    def values(self, raw: Array, axis: int) -> Array:
        """Return (raw * scale - mean) / std as float32, or raw in its dtype if that is no change.

        Channels run along axis, counted from the end; RGB is turned into BGR.

        Raises:
            DataError: mean or std have another number of channels than raw.
        """
        if self.channels == "BGR" and raw.ndim >= -axis and raw.shape[axis] == 3:
            raw = np.flip(raw, axis)
        if not self.changes_values:
            return raw
        for key, numbers in (("mean", self.mean), ("std", self.std)):
            if len(numbers) > 1 and (raw.ndim < -axis or raw.shape[axis] != len(numbers)):
                raise DataError(
                    f"preprocessing has {len(numbers)} values of {key}, which do not fit shape "
                    f"{list(raw.shape)}; give one, or one per channel"
                )
        x: Array = raw.astype(np.float32)
        if self.scale != 1.0:
            x = x * np.float32(self.scale)
        if self.mean:
            x = x - self._along(self.mean, axis)
        if self.std:
            x = x / self._along(self.std, axis)
        return x

    def _along(self, numbers: tuple[float, ...], axis: int) -> Array:
        return np.array(numbers, np.float32).reshape(-1, *[1] * (-axis - 1))

    def describe(self, *, pictures: bool) -> str:
        """Return what is done in words; resizing and cropping only for pictures."""
        parts = [self.layout] if self.layout else []
        parts += [self.channels] if self.layout or pictures else []  # else it may be no picture
        if pictures and self.resize is not None:
            to = (
                f"shorter side {self.resize}"
                if isinstance(self.resize, int)
                else f"resized to {self.resize[0]}x{self.resize[1]}"
            )
            parts.append(f"{to} ({self.interpolation})")
        if pictures and self.crop is not None:
            parts.append(f"centre crop {self.crop[0]}x{self.crop[1]}")
        parts += [f"times {self.scale:.6g}"] if self.scale != 1.0 else []
        parts += [f"minus {_numbers(self.mean)}"] if self.mean else []
        parts += [f"divided by {_numbers(self.std)}"] if self.std else []
        return ", ".join(parts if self.changes_values else [*parts, "values as they are"])


def from_json(given: Mapping[str, Any], name: str = "the stored preprocessing") -> Preprocess:
    """Return the preprocessing that a JSON or TOML object describes.

    Raises:
        UsageError: a key is unknown or a value is not of its kind; names both.
    """
    known = {f.name: f for f in fields(Preprocess)}
    checked: dict[str, Any] = {}
    for key, value in given.items():
        if key not in known:
            raise UsageError(f"{name}: {unknown(key, known, 'preprocessing key')}")
        try:
            checked[key] = _READERS[key](value)
        except (TypeError, ValueError, ZeroDivisionError) as error:
            raise UsageError(f"{name}: {key} = {value!r} is not {error}") from None
    return Preprocess(**checked)


def _numbers(values: Sequence[float]) -> str:
    return " ".join(f"{v:.6g}" for v in values)


def _number(value: Any) -> float:
    """Read 0.5, or text such as "1/255"."""
    wanted = 'a finite number, or a fraction such as "1/255"'
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError(wanted)
    try:
        number = float(Fraction(value)) if isinstance(value, str) else float(value)
    except (ValueError, OverflowError):
        raise ValueError(wanted) from None
    if not np.isfinite(number):
        raise ValueError(wanted)
    return number


def _list(value: Any) -> tuple[float, ...]:
    return tuple(map(_number, value)) if isinstance(value, (list, tuple)) else (_number(value),)


def _std(value: Any) -> tuple[float, ...]:
    if 0.0 in _list(value):
        raise ValueError("a list of numbers other than 0")
    return _list(value)


def _pair(value: Any) -> tuple[int, int]:
    sides = list(value) if isinstance(value, (list, tuple)) else [value, value]
    if len(sides) != 2 or not all(type(s) is int and 0 < s <= 65536 for s in sides):
        raise ValueError("a size in pixels or [height, width]")
    return sides[0], sides[1]


def _resize(value: Any) -> int | tuple[int, int]:
    return _pair(value) if isinstance(value, (list, tuple)) else _pair(value)[0]


def _choice(*choices: str) -> Any:
    def read(value: Any) -> str:
        if value not in choices:
            raise ValueError(f"one of {', '.join(choices)}")
        return str(value)

    return read


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


def _names(value: Any) -> tuple[str, ...]:
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, (list, tuple)) or not all(isinstance(n, str) for n in names):
        raise ValueError("a list of input names")
    return tuple(names)


_READERS: dict[str, Any] = {
    "channels": _choice(*CHANNELS),
    "resize": _resize,
    "interpolation": _choice(*INTERPOLATIONS),
    "crop": _pair,
    "layout": _choice(*LAYOUTS),
    "scale": _number,
    "mean": _list,
    "std": _std,
    "dtype": _choice("float32", "float16", "float64", "uint8", "int8", "int32", "int64"),
    "floats": _flag,
    "inputs": _names,
}
