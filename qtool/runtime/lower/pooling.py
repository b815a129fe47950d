"""MaxPool, AveragePool, the global pools, and ReduceMean over the spatial axes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import onnx_ir as ir

from qtool.errors import UnsupportedError
from qtool.model import attribute
from qtool.runtime.lower.float_linear import require_float
from qtool.runtime.lower.layout import dense
from qtool.runtime.lower.outputs import output_of
from qtool.runtime.lower.state import Lowering
from qtool.runtime.lower.values import Dequantized, Held
from qtool.runtime.lower.windows import Windows, as_image, pair, read_windows
from qtool.runtime.program import Tensor

#: Emits the pool of an image of two spatial dims into a tensor of this shape.
_Pool = Callable[[Tensor, Windows, Sequence[int]], Tensor]


def max_pool(lowering: Lowering, node: ir.Node) -> None:
    """The largest integer stands for the largest real: the qparams stay."""
    if len(node.outputs) > 1 and node.outputs[1].name:
        raise UnsupportedError("its indices are asked for")
    windows = read_windows(node, _spatial(lowering, node), attribute(node, "kernel_shape"))
    _max(lowering, node, windows)


def global_max_pool(lowering: Lowering, node: ir.Node) -> None:
    """Lower the maximum over all spatial axes."""
    _max(lowering, node, _whole(_spatial(lowering, node)))


def average_pool(lowering: Lowering, node: ir.Node) -> None:
    """Lower the mean of each window."""
    windows = read_windows(node, _spatial(lowering, node), attribute(node, "kernel_shape"))
    _average(lowering, node, windows, attribute(node, "count_include_pad", 0))


def global_average_pool(lowering: Lowering, node: ir.Node) -> None:
    """Lower the mean over all spatial axes."""
    _average(lowering, node, _whole(_spatial(lowering, node)), 0)


def _spatial(lowering: Lowering, node: ir.Node) -> tuple[int, ...]:
    shape = lowering.shape(node.inputs[0])
    if len(shape) not in (3, 4, 5):
        raise UnsupportedError(f"it has {len(shape) - 2} spatial dims")
    return shape[2:]


def _whole(size: Sequence[int]) -> Windows:
    """Return one window over all spatial axes, which count as one axis."""
    return Windows((math.prod(size),), (1,), (1,), (0, 0), (1,))


def _image(lowering: Lowering, held: Held, windows: Windows) -> Tensor:
    """Return a tensor with two spatial dims; all are one where windows have one."""
    tensor = lowering.as_last(held)
    if len(windows.kernel) == 1 and len(tensor.shape) > 3:
        pixels = math.prod(tensor.shape[1:-1])
        tensor = dense(lowering, tensor).viewed((tensor.shape[0], pixels, tensor.columns))
    return tensor.viewed(as_image(tensor.shape))


def _flat(y: Tensor, windows: Windows) -> Tensor:
    """Return a result as an image of two spatial dims."""
    return y.viewed((y.shape[0], *[1] * (2 - len(windows.out)), *windows.out, y.shape[-1]))


def _slices(windows: Windows) -> tuple[Windows, Windows]:
    """Cut windows of three dims into those of the last two, and those of the first."""
    parts = []
    for at in (slice(1, 3), slice(0, 1)):
        pads = (*windows.pads[:3][at], *windows.pads[3:][at])
        of = (windows.kernel[at], windows.strides[at], windows.dilations[at])
        parts.append(Windows(*of, pads, windows.out[at]))
    first = parts[1]
    column = Windows(
        (*first.kernel, 1), (*first.strides, 1), (*first.dilations, 1),
        (first.pads[0], 0, first.pads[1], 0), (*first.out, 1),
    )  # fmt: skip
    return parts[0], column


def _in_slices(lowering: Lowering, x: Tensor, windows: Windows, pool: _Pool) -> Tensor:
    """Pool the last two of three spatial dims, then the first: what maxima and means allow."""
    x = dense(lowering, x)
    n, depth, *image, c = x.shape
    flat, column = _slices(windows)
    pixels = math.prod(flat.out)
    column = replace(column, out=(column.out[0], pixels))
    planes = pool(x.viewed((n * depth, *image, c)), flat, (n * depth, *flat.out, c))
    made = pool(planes.viewed((n, depth, pixels, c)), column, (n, column.out[0], pixels, c))
    return made.viewed((n, *windows.out, c))


def _parameters(windows: Windows) -> tuple[int, ...]:
    n = len(windows.kernel)
    return (
        *pair(windows.kernel, 1), *pair(windows.strides, 1), *pair(windows.dilations, 1),
        *pair(windows.pads[:n], 0), *pair(windows.pads[n:], 0),
    )  # fmt: skip


def _max(lowering: Lowering, node: ir.Node, windows: Windows) -> None:
    found = lowering.value(node.inputs[0])
    integers = lowering.quantized(node.inputs[0]) is not None
    if integers and isinstance(found, Dequantized):
        q = lowering.unsigned(found.q)
    elif lowering.dtype(node.inputs[0]) == "int8":
        q = lowering.unsigned(lowering.plain_value(node.inputs[0]))
    else:
        q = lowering.held(node.inputs[0])
    if q.tensor.dtype not in ("uint8", "float32"):
        raise UnsupportedError(f"it pools {q.dtype}")

    def pool(image: Tensor, windows: Windows, shape: Sequence[int]) -> Tensor:
        y = lowering.make(image.dtype, shape)
        lowering.emit("MaxPool", [image], [_flat(y, windows)], _parameters(windows))
        return y

    if len(windows.kernel) == 3:
        y = _in_slices(lowering, lowering.as_last(q), windows, pool)
    else:
        image = _image(lowering, q, windows)
        y = pool(image, windows, _made(q.shape, image, windows))
    made = Held(y, channels_last=True, shifted=q.shifted)
    if integers and isinstance(found, Dequantized):
        lowering.give(node.outputs[0], Dequantized(made, found.qparams))
    else:
        lowering.give(node.outputs[0], made)


def _made(shape: tuple[int, ...], image: Tensor, windows: Windows) -> tuple[int, ...]:
    """Return the shape of a result, channels last, with as many axes as x has."""
    ones = (1,) * (len(shape) - 2 - len(windows.out))
    return (image.shape[0], *ones, *windows.out, image.shape[-1])


def _average(lowering: Lowering, node: ir.Node, windows: Windows, count_pads: int) -> None:
    if len(windows.kernel) == 3:
        _average_in_slices(lowering, node, windows, count_pads)
        return
    x = lowering.quantized(node.inputs[0])
    output = output_of(lowering, node.outputs[0]) if x is not None else None
    zero, scale = 0, 1.0
    if x is None:
        held = require_float(lowering.held(node.inputs[0]))
    else:
        held = Held(x.tensor, x.channels_last)
        zero, scale = x.zero_point, float(x.scale)
    image = _image(lowering, held, windows)
    y = lowering.make("float32" if output is None else "uint8", _made(held.shape, image, windows))
    quantization = (0, 0, 255) if output is None else (output.zero_point, output.low, output.high)
    ints = (*_parameters(windows), count_pads, zero, *quantization)
    floats = (scale, 1.0 if output is None else float(output.scale))
    lowering.emit("AveragePool", [image], [_flat(y, windows)], ints, floats)
    if output is None:
        lowering.give(node.outputs[0], Held(y, channels_last=True))
    else:
        output.give(lowering, y, channels_last=True)


def _average_in_slices(
    lowering: Lowering, node: ir.Node, windows: Windows, count_pads: int
) -> None:
    """Lower the mean over three spatial dims, in float32."""
    held = require_float(lowering.held(node.inputs[0]))

    def pool(image: Tensor, windows: Windows, shape: Sequence[int]) -> Tensor:
        y = lowering.make("float32", shape)
        ints = (*_parameters(windows), count_pads, 0, 0, 0, 255)
        lowering.emit("AveragePool", [image], [_flat(y, windows)], ints, (1.0, 1.0))
        return y

    y = _in_slices(lowering, lowering.as_last(held), windows, pool)
    lowering.give(node.outputs[0], Held(y, channels_last=True))
