"""Layouts: operands of one op in the same order of axes, and axes that follow each other."""

from __future__ import annotations

import math
from collections.abc import Sequence

from qtool.errors import UnsupportedError
from qtool.runtime.lower.state import Lowering
from qtool.runtime.lower.values import Held
from qtool.runtime.program import Loop, Tensor, Walk


def aligned(
    lowering: Lowering, operands: Sequence[Held], shape: Sequence[int]
) -> tuple[list[Tensor], bool]:
    """Return operands in one layout that broadcast to a shape; True when it is channels last."""
    if len(shape) > 6:
        raise UnsupportedError(f"it broadcasts to {len(shape)} dims")
    full = [x for x in operands if len(x.shape) == len(shape) > 2]
    if not any(x.channels_last for x in full):
        return [lowering.as_plain(x) for x in operands], False
    tensors = []
    for x in operands:
        if len(x.shape) < len(shape):
            plain = lowering.as_plain(x)
            x = Held(plain.viewed((*[1] * (len(shape) - len(x.shape)), *x.shape)))
        tensors.append(lowering.as_last(x))
    return tensors, True


def dense(lowering: Lowering, x: Tensor) -> Tensor:
    """Return a tensor without gaps between its rows."""
    return x if x.contiguous else copied(lowering, x)


def copied(lowering: Lowering, x: Tensor) -> Tensor:
    """Return a copy of a tensor, without gaps."""
    y = lowering.make(x.dtype, x.shape)
    zeros = (0,) * len(x.shape)
    loops = tuple(Loop(n, axis, 1, axis, 1) for axis, n in enumerate(x.shape))
    lowering.emit("Copy", [x], [y], walk=Walk(loops, zeros, zeros))
    return y


def lines(
    lowering: Lowering, held: Held, axes: Sequence[int]
) -> tuple[Tensor, tuple[int, int, int], tuple[int, ...]]:
    """Return a value such that ONNX's axes follow each other, cut into (outer, n, inner).

    The axes that are left, in the tensor's order, are the third result; n counts the elements
    of the given ones.
    """
    rank = len(held.shape)
    order = _order(held)
    places = sorted(order.index(axis) for axis in axes)
    x = held.tensor
    if places != list(range(places[0], places[-1] + 1)):
        rest = [axis for axis in range(rank) if axis not in axes]
        x, order = lowering.transposed(lowering.as_plain(held), [*rest, *axes]), (*rest, *axes)
        places = list(range(len(rest), rank))
    x = dense(lowering, x)
    sizes = x.shape[: places[0]], x.shape[places[0] : places[-1] + 1], x.shape[places[-1] + 1 :]
    outer, n, inner = (math.prod(part) for part in sizes)
    return x, (outer, n, inner), tuple(axis for axis in order if axis not in axes)


def _order(held: Held) -> tuple[int, ...]:
    rank = len(held.shape)
    return (0, *range(2, rank), 1) if held.channels_last and rank > 2 else tuple(range(rank))


def as_onnx(lowering: Lowering, y: Tensor, axes: Sequence[int]) -> Tensor:
    """Return a tensor whose axis i is ONNX's axes[i], of those that are left, in their order."""
    ranked = sorted(axes)
    return lowering.transposed(y, [list(axes).index(axis) for axis in ranked])
