"""MaxPool, AveragePool, the global pools, and ReduceMean over the spatial axes."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from qtool.errors import UnsupportedError
from qtool.model import attribute
from qtool.runtime.lower.outputs import output_of
from qtool.runtime.lower.state import Lowering
from qtool.runtime.lower.values import Dequantized, Held
from qtool.runtime.lower.windows import Windows, as_image, pair, read_windows
from qtool.runtime.program import Tensor


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
    if any(d != 1 for d in attribute(node, "dilations") or []):
        raise UnsupportedError("it is dilated")
    windows = read_windows(node, _spatial(lowering, node), attribute(node, "kernel_shape"))
    _average(lowering, node, windows, attribute(node, "count_include_pad", 0))


def global_average_pool(lowering: Lowering, node: ir.Node) -> None:
    """Lower the mean over all spatial axes."""
    _average(lowering, node, _whole(_spatial(lowering, node)), 0)


def _spatial(lowering: Lowering, node: ir.Node) -> tuple[int, ...]:
    shape = lowering.shape(node.inputs[0])
    if len(shape) not in (3, 4):
        raise UnsupportedError(f"it has {len(shape) - 2} spatial dims")
    return shape[2:]


def _whole(size: Sequence[int]) -> Windows:
    ones, n = (1,) * len(size), len(size)
    return Windows(tuple(size), ones, ones, (0,) * 2 * n, ones)


def _image(lowering: Lowering, held: Held) -> Tensor:
    tensor = lowering.as_last(held)
    return tensor.viewed(as_image(tensor.shape))


def _output(lowering: Lowering, dtype: str, image: Tensor, windows: Windows) -> Tensor:
    return lowering.make(dtype, (image.shape[0], *windows.out, image.shape[-1]))


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
    else:
        q = lowering.held(node.inputs[0])
    image = _image(lowering, q)
    y = _output(lowering, q.tensor.dtype, image, windows)
    lowering.emit("MaxPool", [image], [y.viewed(as_image(y.shape))], _parameters(windows))
    made = Held(y, channels_last=True, shifted=q.shifted)
    if integers and isinstance(found, Dequantized):
        lowering.give(node.outputs[0], Dequantized(made, found.qparams))
    else:
        lowering.give(node.outputs[0], made)


def _average(lowering: Lowering, node: ir.Node, windows: Windows, count_pads: int) -> None:
    x = lowering.quantized(node.inputs[0])
    output = output_of(lowering, node.outputs[0]) if x is not None else None
    zero, scale = 0, 1.0
    if x is None:
        image = _image(lowering, lowering.held(node.inputs[0]))
    else:
        image = _image(lowering, Held(x.tensor, x.channels_last))
        zero, scale = x.zero_point, float(x.scale)
    y = _output(lowering, "float32" if output is None else "uint8", image, windows)
    quantization = (0, 0, 255) if output is None else (output.zero_point, output.low, output.high)
    ints = (*_parameters(windows), count_pads, zero, *quantization)
    floats = (scale, 1.0 if output is None else float(output.scale))
    lowering.emit("AveragePool", [image], [y.viewed(as_image(y.shape))], ints, floats)
    if output is None:
        lowering.give(node.outputs[0], Held(y, channels_last=True))
    else:
        output.give(lowering, y, channels_last=True)
