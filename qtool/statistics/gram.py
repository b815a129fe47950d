"""Gram matrices of the inputs of weighted layers; see docs/statistics.md.

H = sum x x^T over the rows (Gemm, MatMul) or the windows (Conv) that a layer's weights are
multiplied with, x augmented with 1. Shape legend: K weights per output channel and group;
H is (groups, K + 1, K + 1); spatial dims are those behind (N, C).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from qtool import _native
from qtool.errors import DataError, UsageError
from qtool.hessian import matrix as matrix
from qtool.model import GramStatistics, Model, attribute, constant
from qtool.shapes import tensor_shape
from qtool.statistics.histogram import float32, nonfinite

# What may hold floats; None where the type is not known. A tensor of another type is never seen.
FLOATS = (None, ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE)


@dataclass(frozen=True)
class Window:
    """The geometry of a convolution, for each spatial dim. pads has begins, then ends."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]
    auto_pad: str = "NOTSET"

    def placed(self, size: tuple[int, ...]) -> tuple[list[int], list[int]]:
        """Return the pads in front and the output size for an input of this spatial size.

        ONNX Conv-11: SAME_* pads to ceil(size / stride), the odd one in front for SAME_LOWER.
        """
        before, output = [], []
        for i, n in enumerate(size):
            reach = (self.kernel[i] - 1) * self.dilations[i] + 1
            if self.auto_pad.startswith("SAME"):
                n_out = -(-n // self.strides[i])
                total = max((n_out - 1) * self.strides[i] + reach - n, 0)
                front = (total + 1) // 2 if self.auto_pad == "SAME_LOWER" else total // 2
            else:
                valid = self.auto_pad == "VALID"
                front, back = (0, 0) if valid else (self.pads[i], self.pads[i + len(size)])
                n_out = max((n + front + back - reach) // self.strides[i] + 1, 0)
            before.append(front)
            output.append(n_out)
        return before, output


@dataclass(frozen=True)
class Layer:
    """A node whose weights are constant, and where its x are found in the tensor it reads.

    name, the name of the node's first output, is the key in Statistics.grams. Without a window,
    x runs along `axis` of the tensor.
    """

    name: str
    tensor: str
    groups: int
    depth: int  # K
    window: Window | None = None
    axis: int = -1

    @property
    def what(self) -> tuple[object, ...]:
        """What H depends on: layers that agree in it have the same."""
        return self.tensor, self.groups, self.depth, self.window, self.axis

    @property
    def state_bytes(self) -> int:
        """The memory that its Gram takes."""
        return int(_native.Gram.state_bytes(self.groups, self.depth))

    @property
    def scratch_bytes(self) -> int:
        """The memory that one update of its Gram takes besides, in each thread."""
        return int(_native.Gram.scratch_bytes(self.depth))


def gram_layers(model: Model) -> list[Layer]:
    """Return the Conv, Gemm and MatMul nodes of the main graph that have constant weights."""
    found = (_LAYERS[node.op_type](node) for node in model.graph if node.op_type in _LAYERS)
    return [layer for layer in found if layer is not None]


class Gram:
    """Sums x x^T of one layer, from any number of threads."""

    def __init__(self, layer: Layer, isa: str = "") -> None:
        """Start at zero; isa names the kernels to use, "" the fastest.

        Raises:
            UsageError: this machine has no such kernels.
        """
        self.layer = layer
        try:
            self._native = _native.Gram(layer.groups, layer.depth, isa)
        except ValueError as error:
            raise UsageError(str(error)) from error

    def update(self, values: npt.NDArray[Any]) -> None:
        """Add the x that the layer's tensor gives with these values, of any float dtype.

        Raises:
            DataError: the values have another shape than the layer takes, are not finite, or
                are so large that their sum passes the range; drop the matrix then.
        """
        layer = self.layer
        x = float32(values)
        try:
            added = self._windows(x, layer.window) if layer.window else self._rows(x)
        except ValueError as error:
            shape = "x".join(map(str, values.shape))
            raise DataError(f"shape {shape} does not fit {layer.name!r}: {error}") from error
        if not added:
            bad = not np.isfinite(x).all()
            raise DataError(nonfinite(x) if bad else "the sum of squares passes the range, 2**62")

    def finish(self) -> GramStatistics:
        """Return the sums so far."""
        count, values = self._native.state()
        layer = self.layer
        return GramStatistics(count, layer.groups, layer.depth + 1, _native.GRAM_EXPONENT, values)

    def _rows(self, x: npt.NDArray[np.float32]) -> bool:
        rows = np.moveaxis(x, self.layer.axis, -1) if x.ndim > 1 else x
        shape = (-1, self.layer.depth, 1, 1, 1) if x.size else (0, self.layer.depth, 1, 1, 1)
        one = (1, 1, 1)
        return bool(self._native.update(
            np.ascontiguousarray(rows).reshape(shape),
            kernel=one, strides=one, dilations=one, pads=(0, 0, 0), output=one,
        ))  # fmt: skip

    def _windows(self, x: npt.NDArray[np.float32], window: Window) -> bool:
        size = x.shape[2:]
        if len(size) != len(window.kernel):
            raise ValueError(f"{len(window.kernel)} spatial dims are needed")
        pads, output = window.placed(size)
        missing = 3 - len(size)
        ones, zeros = (1,) * missing, (0,) * missing
        return bool(self._native.update(
            x.reshape(*x.shape[:2], *ones, *size),
            kernel=(*ones, *window.kernel), strides=(*ones, *window.strides),
            dilations=(*ones, *window.dilations), pads=(*zeros, *pads), output=(*ones, *output),
        ))  # fmt: skip


def merged(parts: Iterable[GramStatistics]) -> GramStatistics:
    """Return the sum of the parts.

    Raises:
        DataError: they are not of one layer, or the sum passes 127 bits.
    """
    return reduce(_sum, parts)


def _sum(a: GramStatistics, b: GramStatistics) -> GramStatistics:
    if (a.groups, a.size, a.exponent, a.values.shape) != (
        b.groups, b.size, b.exponent, b.values.shape,
    ):  # fmt: skip
        raise DataError("the Gram matrices have different sizes; calibrate the shards alike")
    values = np.empty_like(a.values)
    values[..., 0] = a.values[..., 0] + b.values[..., 0]
    carry = values[..., 0] < a.values[..., 0]
    high_a, high_b = a.values[..., 1], b.values[..., 1]
    values[..., 1] = high_a + high_b + carry
    sign = np.uint64(1 << 63)
    if np.any((high_a ^ values[..., 1]) & (high_b ^ values[..., 1]) & sign):
        raise DataError("the sum of the Gram matrices passes 127 bits")
    return GramStatistics(a.count + b.count, a.groups, a.size, a.exponent, values)


def _conv(node: ir.Node) -> Layer | None:
    weight = constant(node.inputs[1])
    if weight is None or len(weight.shape) < 3 or len(weight.shape) > 5:
        return None
    shape = tensor_shape(weight)
    n = len(shape) - 2
    window = Window(
        kernel=shape[2:],
        strides=tuple(attribute(node, "strides", [1] * n)),
        dilations=tuple(attribute(node, "dilations", [1] * n)),
        pads=tuple(attribute(node, "pads", [0] * 2 * n)),
        auto_pad=attribute(node, "auto_pad", "NOTSET"),
    )
    depth = int(np.prod(shape[1:]))
    return _layer(node, 0, depth, groups=attribute(node, "group", 1), window=window)


def _gemm(node: ir.Node) -> Layer | None:
    left, right = (constant(value) for value in node.inputs[:2])
    if right is not None and left is None:  # y = x w
        transposed = attribute(node, "transB", 0)
        axis = 0 if attribute(node, "transA", 0) else -1
        return _layer(node, 0, tensor_shape(right)[1 if transposed else 0], axis=axis)
    if left is not None and right is None:  # y = w x: the columns of x
        transposed = attribute(node, "transA", 0)
        axis = -1 if attribute(node, "transB", 0) else 0
        return _layer(node, 1, tensor_shape(left)[0 if transposed else 1], axis=axis)
    return None


def _matmul(node: ir.Node) -> Layer | None:
    left, right = (constant(value) for value in node.inputs[:2])
    if right is not None and left is None and len(right.shape) == 2:
        return _layer(node, 0, tensor_shape(right)[0])
    if left is not None and right is None and len(left.shape) == 2:
        return _layer(node, 1, tensor_shape(left)[1], axis=-2)
    return None


def _layer(node: ir.Node, index: int, depth: int, **more: Any) -> Layer | None:
    value, name = node.inputs[index], node.outputs[0].name
    if value is None or not value.name or not name or depth == 0 or value.dtype not in FLOATS:
        return None
    return Layer(name, value.name, **{"groups": 1, "depth": depth, **more})


_LAYERS = {"Conv": _conv, "Gemm": _gemm, "MatMul": _matmul}
