"""ConvTranspose: an ordinary convolution whose output channels are the phases of the strides.

    y[s q + r] = sum over j of x[q - j] w[r + s j]

Output s q + r reads every s-th tap of the kernel only, from r on. So a convolution of x with stride
1 computes the s values of each q as channels, and a copy puts them in their places.

Shape legend: w (C, C_out / group, *kernel); as a convolution's (group, *strides, C_out / group)
output channels by C / group by *taps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import onnx_ir as ir

from qtool.errors import UnsupportedError
from qtool.model import attribute
from qtool.runtime.lower import float_linear, linear, wide_linear
from qtool.runtime.lower.float_weights import FloatWeight
from qtool.runtime.lower.integer_bias import read_bias
from qtool.runtime.lower.movement import sliced
from qtool.runtime.lower.outputs import WIDE, Output, give, output_of
from qtool.runtime.lower.state import Lowering
from qtool.runtime.lower.values import Held
from qtool.runtime.lower.wide_linear import WideWeight, read_wide_weight
from qtool.runtime.lower.windows import Windows
from qtool.runtime.program import Array, Loop, Tensor, Walk


@dataclass(frozen=True)
class _Geometry:
    """Of each spatial dim: begin is the first element of y among all that there are."""

    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begin: tuple[int, ...]
    out: tuple[int, ...]
    group: int
    windows: Windows  # of the convolution

    @property
    def phases(self) -> int:
        return math.prod(self.strides)


def conv_transpose(lowering: Lowering, node: ir.Node) -> None:
    """Lower ConvTranspose of one or two spatial dims, or three without groups."""
    shape, w_shape = (lowering.shape(v) for v in node.inputs[:2])
    geometry = _geometry(node, shape, w_shape)
    if len(shape) > (5 if geometry.group == 1 else 4):
        raise UnsupportedError(f"it has {len(shape) - 2} spatial dims and groups")
    y, output = _of_integers(lowering, node, geometry) or _of_floats(lowering, node, geometry)
    held = _cropped(lowering, Held(_interleaved(lowering, y, geometry), True), geometry)
    give(lowering, node, output, held.tensor, channels_last=held.channels_last)


def _geometry(node: ir.Node, shape: tuple[int, ...], w_shape: tuple[int, ...]) -> _Geometry:
    n = len(shape) - 2
    strides = tuple(attribute(node, "strides") or [1] * n)
    dilations = tuple(attribute(node, "dilations") or [1] * n)
    more = tuple(attribute(node, "output_padding") or [0] * n)
    reach = [(k - 1) * d for k, d in zip(w_shape[2:], dilations, strict=True)]
    whole = [
        s * (i - 1) + p + r + 1 for s, i, p, r in zip(strides, shape[2:], more, reach, strict=True)
    ]
    begin, out = _placed(node, shape, strides, whole)
    last = [r // s for r, s in zip(reach, strides, strict=True)]  # J: the taps are 0 .. J
    skipped = [min(b // s, j) for b, s, j in zip(begin, strides, last, strict=True)]
    before = [j - q for j, q in zip(last, skipped, strict=True)]
    wanted = [
        (o - 1 + b) // s - q + 1 for o, b, s, q in zip(out, begin, strides, skipped, strict=True)
    ]
    after = [
        max(w - i - p + j, 0) for w, i, p, j in zip(wanted, shape[2:], before, last, strict=True)
    ]
    made = [i + p + e - j for i, p, e, j in zip(shape[2:], before, after, last, strict=True)]
    ones, kernel = (1,) * n, tuple(j + 1 for j in last)
    windows = Windows(kernel, ones, ones, (*before, *after), tuple(made))
    first = tuple(b - q * s for b, q, s in zip(begin, skipped, strides, strict=True))
    group = attribute(node, "group", 1)
    return _Geometry(strides, dilations, first, tuple(out), group, windows)


def _placed(
    node: ir.Node, shape: tuple[int, ...], strides: tuple[int, ...], whole: list[int]
) -> tuple[list[int], list[int]]:
    """Return where y begins among all the elements, and its size."""
    n = len(whole)
    auto, wanted = attribute(node, "auto_pad", "NOTSET"), attribute(node, "output_shape")
    if auto in ("SAME_UPPER", "SAME_LOWER") or wanted:
        out = [int(v) for v in (wanted or [i * s for i, s in zip(shape[2:], strides, strict=True)])]
        out = out[-n:]
        cut = [w - o for w, o in zip(whole, out, strict=True)]
        begin = [c // 2 if auto == "SAME_UPPER" else c - c // 2 for c in cut]
        if min(begin) < 0:
            raise UnsupportedError("its output is larger than what it computes")
        return begin, out
    pads = [0] * 2 * n if auto == "VALID" else attribute(node, "pads") or [0] * 2 * n
    if min(pads) < 0:
        raise UnsupportedError("it has negative pads")
    out = [w - a - b for w, a, b in zip(whole, pads[:n], pads[n:], strict=True)]
    if min(out) < 1:
        raise UnsupportedError("its pads leave nothing")
    return list(pads[:n]), out


def _of_integers(
    lowering: Lowering, node: ir.Node, geometry: _Geometry
) -> tuple[Tensor, Output | None] | None:
    """Emit the convolution of quantized operands; None where they are not."""
    x = lowering.quantized(node.inputs[0], wide=True)
    weight = read_wide_weight(lowering, node.inputs[1], 1)
    if x is None or weight is None:
        return None
    group = geometry.group
    zero = np.tile(weight.zero, group)
    scale = np.tile(weight.scale, group) if weight.scale.ndim else weight.scale
    n = weight.integers.shape[1] * group
    bias = read_bias(lowering, node, x.scale, scale, n)
    integers = np.moveaxis(_as_conv(weight.integers, geometry, weight.zero), 1, -1)
    output = output_of(lowering, node.outputs[0], WIDE)
    integers = np.ascontiguousarray(integers)
    given, scale = _repeated(bias, geometry), _repeated(scale, geometry)
    windows = geometry.windows
    bytes_only = x.tensor.dtype == "uint8" and (output is None or output.dtype == "uint8")
    if bytes_only and not zero.any() and len(windows.kernel) < 3:
        y = linear.int8_conv(lowering, x, linear.Weight(integers, scale), given, windows, group,
                             output)  # fmt: skip
    else:
        made = WideWeight(integers, _repeated(zero, geometry), scale)
        y = wide_linear.quantized_conv(lowering, x, made, given, windows, group, output)
    return y, output


def _of_floats(
    lowering: Lowering, node: ir.Node, geometry: _Geometry
) -> tuple[Tensor, Output | None]:
    x = float_linear.require_float(lowering.held(node.inputs[0]))
    w = lowering.need(node.inputs[1], "weight").astype(np.float32)
    n = w.shape[1] * geometry.group
    matrix = np.moveaxis(_as_conv(w, geometry, np.zeros(w.shape[1], np.float32)), 1, -1)
    rows = np.ascontiguousarray(matrix.reshape(len(matrix), -1))
    k = rows.shape[1]
    weight = FloatWeight((lowering.constant(rows), None, None), (32, k), len(rows), k)
    bias = float_linear.bias_of(lowering, node, n)
    given = None if bias is None else _repeated(bias, geometry)
    windows, group = geometry.windows, geometry.group
    return float_linear.convolved(lowering, x, weight, given, windows, group), None


def _as_conv(w: Array, geometry: _Geometry, fill: Array) -> Array:
    """Return the weight of the convolution, whose missing taps are fill, (C_out / group,)."""
    group, strides, taps = geometry.group, geometry.strides, geometry.windows.kernel
    c_in, c_out = w.shape[0] // group, w.shape[1]
    made = np.empty((group, *strides, c_out, c_in, *taps), w.dtype)
    made[:] = fill.reshape(c_out, 1, *[1] * len(taps))
    grouped = w.reshape(group, c_in, *w.shape[1:]).swapaxes(1, 2)
    every = slice(None)
    for at in product(*map(range, w.shape[2:])):
        places = [divmod(i * d, s) for i, d, s in zip(at, geometry.dilations, strides, strict=True)]
        phase = tuple(r for _, r in places)
        tap = tuple(t - 1 - j for (j, _), t in zip(places, taps, strict=True))
        to: Any = (every, *phase, every, every, *tap)
        from_: Any = (every, every, every, *at)
        made[to] = grouped[from_]
    return made.reshape(-1, c_in, *taps)


def _repeated(values: Array, geometry: _Geometry) -> Array:
    """Return values of the output channels, (C_out,), for each phase; a scalar stays."""
    if not values.ndim:
        return values
    parts = values.reshape(geometry.group, 1, -1)
    return np.ascontiguousarray(np.repeat(parts, geometry.phases, 1).reshape(-1))


def _interleaved(lowering: Lowering, x: Tensor, geometry: _Geometry) -> Tensor:
    """Put the phases in their places: x (N, *Q, group * phases * c), y (N, *(Q * strides), C)."""
    if geometry.phases == 1:
        return x
    group, strides, n = geometry.group, geometry.strides, len(geometry.strides)
    each = x.columns // (group * geometry.phases)
    out = [q * s for q, s in zip(x.shape[1:-1], strides, strict=True)]
    y = lowering.make(x.dtype, (x.shape[0], *out, group * each))
    loops, step = [Loop(x.shape[0], 0, 1, 0, 1)], geometry.phases * each
    for d, s in enumerate(strides):
        step //= s
        loops += [Loop(x.shape[1 + d], 1 + d, 1, 1 + d, s), Loop(s, n + 1, step, 1 + d, 1)]
    if group > 1:
        loops.append(Loop(group, n + 1, geometry.phases * each, n + 1, each))
    loops.append(Loop(each, n + 1, 1, n + 1, 1))
    zeros = (0,) * (n + 2)
    lowering.emit("Copy", [x], [y], walk=Walk(tuple(loops), zeros, zeros))
    return y


def _cropped(lowering: Lowering, held: Held, geometry: _Geometry) -> Held:
    shape = held.shape
    dims = (*shape[:2], *geometry.out)
    return sliced(lowering, held, (0, 0, *geometry.begin), (1,) * len(shape), dims)
