"""PRESETS: preprocessing by name, and reading one from a preset's name, a file or a model."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from qtool.data.preprocess import Preprocess, from_json
from qtool.errors import QtoolError, UsageError
from qtool.model import Dim
from qtool.registry import unknown

Size = tuple[int, int]
FILES = (".toml", ".json")


def imagenet(size: Size) -> Preprocess:
    """torchvision's: RGB, centre crop, x/255 less mean over std."""
    return _cropped(
        size, scale=1 / 255, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
    )  # fmt: skip


def tf(size: Size) -> Preprocess:
    """TensorFlow's and Keras' "tf" mode: RGB, centre crop, x/127.5 - 1."""
    return _cropped(size, scale=1 / 127.5, mean=(1.0,))


def caffe(size: Size) -> Preprocess:
    """Caffe's: BGR, centre crop, less the mean of each channel."""
    return _cropped(size, channels="BGR", mean=(104.0, 117.0, 123.0))


def unit(size: Size) -> Preprocess:
    """Resized to the model's size, x/255."""
    return Preprocess(resize=size, scale=1 / 255)


def none(size: Size) -> Preprocess:
    """Values and sizes as they are."""
    return Preprocess()


PRESETS: dict[str, Callable[[Size], Preprocess]] = {
    "imagenet": imagenet,
    "tf": tf,
    "caffe": caffe,
    "unit": unit,
    "none": none,
}


def _cropped(size: Size, **values: Any) -> Preprocess:
    """Return the centre crop of size out of a picture whose shorter side is 256/224 of it.

    256 for all crops from 224 to 240, as the networks of 227 and 240 pixels were trained.
    """
    side = max(size)
    resize = 256 if 224 <= side <= 240 else round(side * 256 / 224)
    return Preprocess(resize=resize, crop=size, **values)


def read_preprocess(
    given: str | Mapping[str, Any] | None, shape: tuple[Dim, ...] | None
) -> Preprocess | None:
    """Return the preprocessing that a preset's name, a .toml/.json file or a JSON object gives.

    shape is that of the model's picture input, with batch axis: presets take their size and
    layout from it.

    Raises:
        UsageError: there is no such preset, or the file's contents are wrong.
        QtoolError: the file cannot be read.
    """
    if given is None:
        return None
    if not isinstance(given, (str, Mapping)):
        raise UsageError(f"preprocessing is {given!r}; it must be a name, a file or an object")
    layout = layout_of(shape)
    if isinstance(given, str) and given in PRESETS:
        found = PRESETS[given](_size(shape, layout))
    else:
        found = from_json(given) if isinstance(given, Mapping) else _read(given)
    if layout is not None and shape is not None:
        channels = shape[1 if found.layout == "NCHW" else -1]
        if found.layout is not None and isinstance(channels, int) and channels not in (1, 3, 4):
            raise UsageError(
                f"preprocessing says {found.layout}, but the model's input has shape {list(shape)}"
            )
        found = replace(found, layout=found.layout or layout)
    one_channel = (
        shape is not None
        and found.layout is not None
        and (shape[1 if found.layout == "NCHW" else -1] == 1)
    )
    if one_channel and found.channels == "RGB":
        found = replace(found, channels="GRAY")
    n_channels = {"GRAY": 1}.get(found.channels, 3)
    for key in ("mean", "std"):
        if layout and len(getattr(found, key)) not in (0, 1, n_channels):
            raise UsageError(
                f"preprocessing has {len(getattr(found, key))} values of {key} for {n_channels} "
                "channels; give one, or one per channel"
            )
    return found


def layout_of(shape: tuple[Dim, ...] | None) -> str | None:
    """Return NCHW or NHWC where a static channel count of 1, 3 or 4 tells; NCHW if both do."""
    if shape is None or len(shape) != 4:
        return None
    return next((n for n, axis in (("NCHW", 1), ("NHWC", 3)) if shape[axis] in (1, 3, 4)), None)


def _size(shape: tuple[Dim, ...] | None, layout: str | None) -> Size:
    """Return (height, width) of the model's input; 224 where it does not say."""
    if shape is None or layout is None:
        return 224, 224
    height, width = shape[1:3] if layout == "NHWC" else shape[2:4]
    return (height if isinstance(height, int) else 224), (width if isinstance(width, int) else 224)


def _read(name: str) -> Preprocess:
    path = Path(name)
    if path.suffix not in FILES:
        raise unknown(name, PRESETS, "preprocessing preset")
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise QtoolError(f"cannot read {name}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{name} is not UTF-8 text") from None
    try:
        given = json.loads(text) if path.suffix == ".json" else _toml().loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{name} is not {path.suffix[1:].upper()}: {error}") from None
    if not isinstance(given, dict):
        raise UsageError(f"{name} holds a {type(given).__name__}; it must hold one object")
    return from_json(given, name)


def _toml() -> Any:
    return import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
