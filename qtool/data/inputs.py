"""What an input of a model takes, and making raw arrays fit it: layout, values, dtype, checks."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from qtool.data.preprocess import Preprocess
from qtool.errors import DataError, UnsupportedError
from qtool.model import Dim, TensorSpec

Array = npt.NDArray[Any]
Dims = tuple[Dim, ...]
log = logging.getLogger("qtool")


@dataclass(frozen=True)
class Input:
    """One input of a model. shape has the batch axis; None where the rank is unknown."""

    name: str
    dtype: np.dtype[Any]
    shape: Dims | None
    preprocess: Preprocess | None = None

    @property
    def item(self) -> Dims | None:
        """The dims without batch axis; None where the rank is unknown."""
        return None if self.shape is None else self.shape[1:]

    def __str__(self) -> str:
        return str(TensorSpec(self.name, self.dtype.name, self.shape))


def make_input(spec: TensorSpec, preprocess: Preprocess | None = None) -> Input:
    """Return the input that a model's spec describes.

    Raises:
        UnsupportedError: it takes strings or no tensor.
    """
    if " " in spec.dtype:
        raise UnsupportedError(f"input {spec.name!r} takes {spec.dtype}; qtool feeds tensors")
    if spec.dtype == "str":
        raise UnsupportedError(f"input {spec.name!r} takes strings; qtool feeds numbers only")
    return Input(spec.name, numpy_dtype(spec.dtype), spec.shape, preprocess)


def numpy_dtype(name: str) -> np.dtype[Any]:
    """Return the numpy dtype of a name such as "float32" or "bfloat16"."""
    try:
        return np.dtype(name)
    except TypeError:
        import ml_dtypes

        found: np.dtype[Any] = np.dtype(getattr(ml_dtypes, name))
        return found


def prepare(raw: Array, target: Input, *, row: bool, where: str) -> Array:
    """Return raw as the input takes it: layout, preprocessed values, dtype; checked.

    row says that raw has no batch axis.

    Raises:
        DataError: shape or dtype do not fit, or a value is NaN, infinite or out of range.
    """
    dims = target.item if row else target.shape
    if raw.dtype.kind == "f" and not np.isfinite(raw).all():
        raise DataError(f"{where}: input {target.name!r} holds NaN or infinite values")
    pre = target.preprocess
    resized = pre.geometry(raw, dims) if pre is not None else raw
    placed = arrange(resized, dims)
    if placed is None:
        fix = "check its resize and crop" if pre else "give it as the model takes it"
        raise DataError(
            f"{where}: shape {shape_text(raw.shape)} does not fit input {target}; {fix}"
        )
    if pre is not None and pre.applies_to(raw.dtype):
        placed = pre.values(placed, channel_axis(dims, pre))
        if target.dtype.kind in "iu" and placed.dtype.kind == "f":
            return cast(np.rint(placed).astype(np.int64), target, where)
    return cast(placed, target, where)


def arrange(raw: Array, dims: Dims | None) -> Array | None:
    """Return raw as it is, with channels moved first or last, or with a channel axis of 1.

    The first of these that fits dims; None where none does.
    """
    arrangement = find_arrangement(raw.shape, dims)
    if arrangement is None:
        return None
    verb, axis = arrangement
    if verb == "move":
        return np.moveaxis(raw, -1 if axis == -3 else -3, axis)
    return np.expand_dims(raw, axis) if verb == "grow" else raw


def find_arrangement(shape: Sequence[int], dims: Dims | None) -> tuple[str, int] | None:
    """Return ("keep", 0), ("move", new axis of the channels), ("grow", new axis) or None."""
    if dims is None or fits(shape, dims):
        return "keep", 0
    if len(dims) < 3 or len(shape) not in (len(dims) - 1, len(dims)):
        return None
    *outer, a, b, c = shape if len(shape) == len(dims) else (0, *shape)
    if len(shape) == len(dims):
        moved = {-3: (*outer, c, a, b), -1: (*outer, b, c, a)}
        return next((("move", axis) for axis, s in moved.items() if fits(s, dims)), None)
    grown = {-3: (*outer[1:], 1, b, c), -1: (*outer[1:], b, c, 1)}
    return next((("grow", axis) for axis, s in grown.items() if fits(s, dims)), None)


def fits(shape: Sequence[int], dims: Dims) -> bool:
    """Tell whether an array of this shape has the rank and static sizes of dims."""
    return len(shape) == len(dims) and all(
        size == dim or not isinstance(dim, int) for size, dim in zip(shape, dims, strict=True)
    )


def channel_axis(dims: Dims | None, pre: Preprocess) -> int:
    """Return the axis, counted from the end, that mean and std run along."""
    return -3 if dims is not None and len(dims) >= 3 and pre.layout != "NHWC" else -1


def cast(values: Array, target: Input, where: str) -> Array:
    """Return values in the input's dtype, C-contiguous.

    Raises:
        DataError: that would change an integer, or turn fractions into integers.
    """
    have, want = values.dtype, target.dtype
    if have == want:
        return np.asarray(values, order="C")
    problem = cast_problem(have, want)
    if problem is not None:
        raise DataError(f"{where}: {problem} input {target}")
    with np.errstate(all="ignore"):
        result = values.astype(want, order="C")
    if want.kind in "iu" and not np.array_equal(result.astype(have), values):
        raise DataError(f"{where}: values do not fit {want.name} of input {target}")
    if want.kind == "f" and not np.isfinite(result).all():
        raise DataError(f"{where}: values do not fit {want.name} of input {target}")
    return result


def cast_problem(have: np.dtype[Any], want: np.dtype[Any]) -> str | None:
    """Return why an array of dtype have cannot be fed as want, or None where it can."""
    numbers = "iufb" if want.kind != "b" else "b"
    if have.kind not in numbers and have.kind != "V":
        return f"{'text' if have.kind in 'US' else have.name} values cannot be fed to"
    if have.kind == "f" and want.kind in "iu":
        return f"{have.name} values cannot be fed without loss to"
    return None


def shape_text(shape: Sequence[int]) -> str:
    """Return a shape as "[2,3]"."""
    return f"[{','.join(map(str, shape))}]"
