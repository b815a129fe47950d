"""The windows of convolutions and pools over an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from qtool.errors import UnsupportedError
from qtool.model import attribute


@dataclass(frozen=True)
class Windows:
    """The spatial attributes of a convolution or pooling: pads as ONNX has them, ends last."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]
    out: tuple[int, ...]


def as_image(shape: Sequence[int]) -> tuple[int, ...]:
    """Return a channels last shape with two spatial dims."""
    return (shape[0], *[1] * (4 - len(shape)), *shape[1:])


def read_windows(node: ir.Node, size: Sequence[int], kernel: Sequence[int]) -> Windows:
    """Return the attributes of a convolution or pooling over an image of this spatial size."""
    n = len(size)
    strides = tuple(attribute(node, "strides") or [1] * n)
    dilations = tuple(attribute(node, "dilations") or [1] * n)
    spans = [d * (k - 1) + 1 for d, k in zip(dilations, kernel, strict=True)]
    auto = attribute(node, "auto_pad", "NOTSET")
    pads = tuple(attribute(node, "pads") or [0] * 2 * n)
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        missing = [
            max((-(-i // s) - 1) * s + span - i, 0)
            for i, s, span in zip(size, strides, spans, strict=True)
        ]
        less, more = [m // 2 for m in missing], [m - m // 2 for m in missing]
        pads = (*less, *more) if auto == "SAME_UPPER" else (*more, *less)
    elif auto == "VALID":
        pads = (0,) * 2 * n
    if min(pads) < 0:
        raise UnsupportedError("it has negative pads")
    room = [
        i + pads[a] + pads[a + n] - span
        for a, (i, span) in enumerate(zip(size, spans, strict=True))
    ]
    if attribute(node, "ceil_mode", 0):
        out = [
            _ceil_size(r, s, i, p) for r, s, i, p in zip(room, strides, size, pads[:n], strict=True)
        ]
    else:
        out = [r // s + 1 for r, s in zip(room, strides, strict=True)]
    if min(room) < 0 or min(out) < 1:
        raise UnsupportedError("its kernel is larger than the padded input")
    return Windows(tuple(kernel), strides, dilations, pads, tuple(out))


def _ceil_size(room: int, stride: int, size: int, pad: int) -> int:
    """Return the output size of ceil_mode: no window begins in the padding at the end."""
    out = -(-room // stride) + 1
    return out - 1 if (out - 1) * stride >= size + pad else out


def pair(values: Sequence[int], fill: int) -> tuple[int, ...]:
    """Return values for two spatial dims; the first of one is fill."""
    return (*[fill] * (2 - len(values)), *values)
