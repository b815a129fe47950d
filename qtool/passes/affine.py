"""BatchNormalization, Mul, Div, Add and Sub with constants, seen alike: y = k * x + b."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from qtool.model import BatchNormStatistics, array, attribute, constant
from qtool.passes.linear import FLOATS
from qtool.passes.rewriting import Array

Float64 = npt.NDArray[np.float64]

AFFINE = ("BatchNormalization", "Mul", "Div", "Add", "Sub")
LARGEST = 1 << 16  # elements; no model has more channels


@dataclass(frozen=True)
class Affine:
    """y = k * x + b, with k and b of shape (C,)."""

    x: ir.Value
    k: Float64
    b: Float64
    statistics: BatchNormStatistics | None = None  # of y, where the node says so

    @property
    def shifts(self) -> bool:
        """Whether b is not 0."""
        return bool(np.any(self.b))

    @property
    def scales(self) -> bool:
        """Whether k is not 1."""
        return bool(np.any(self.k != 1))


def affine_of(node: ir.Node, n_dims: int | None, axis: int, channels: int) -> Affine | None:
    """Return a node as k * x + b along one axis of x, which has n_dims dims; None if it is not.

    axis is 1 or -1, of length channels.
    """
    with np.errstate(all="ignore"):
        if node.op_type == "BatchNormalization":
            found = _batch_norm(node) if axis == 1 or n_dims == 2 else None
        else:
            found = _elementwise(node, n_dims, axis, channels)
    if found is None or found.k.shape != (channels,):
        return None
    return found if np.isfinite(found.k).all() and np.isfinite(found.b).all() else None


def input_of(node: ir.Node) -> ir.Value | None:
    """Return the input of an AFFINE node that is not a constant; None if not just one is."""
    if node.op_type == "BatchNormalization":
        return node.inputs[0]
    values = [value for value in node.inputs if constant(value) is None]
    return values[0] if len(values) == 1 else None


def _batch_norm(node: ir.Node) -> Affine | None:
    """K = gamma / sqrt(var + epsilon), b = beta - k * mean."""
    given = [array(value) for value in node.inputs[1:5]]
    found = [values.astype(np.float64) for values in given if values is not None]
    if len(found) != 4 or node.inputs[0] is None or any(v.shape != found[0].shape for v in found):
        return None
    gamma, beta, mean, var = found
    k = gamma / np.sqrt(var + attribute(node, "epsilon", 1e-5))
    statistics = BatchNormStatistics(beta.astype(np.float32), np.abs(gamma).astype(np.float32))
    return Affine(node.inputs[0], k, beta - k * mean, statistics)


def _elementwise(node: ir.Node, n_dims: int | None, axis: int, channels: int) -> Affine | None:
    x = input_of(node)
    if x is None:
        return None
    index = 1 if node.inputs[0] is x else 0
    tensor = constant(node.inputs[index])
    if tensor is None or tensor.size > LARGEST or tensor.dtype not in FLOATS:
        return None
    vector = _vector(tensor.numpy(), n_dims, axis, channels)
    if vector is None:
        return None
    one, zero = np.ones(channels), np.zeros(channels)
    if node.op_type == "Mul":
        return Affine(x, vector, zero)
    if node.op_type == "Add":
        return Affine(x, one, vector)
    if node.op_type == "Sub":
        return Affine(x, one, -vector) if index == 1 else Affine(x, -one, vector)
    return Affine(x, 1 / vector, zero) if index == 1 else None


def _vector(values: Array, n_dims: int | None, axis: int, channels: int) -> Float64 | None:
    """Return a constant as one number per channel, if that is how it is broadcast."""
    if values.ndim > (1 if n_dims is None else n_dims):
        return None
    flat = values.astype(np.float64).ravel()
    if flat.size == 1:
        return np.full(channels, flat[0])
    from_right = 1 if axis == -1 else n_dims and n_dims - axis
    if not from_right or values.ndim < from_right or values.shape[-from_right] != flat.size:
        return None
    return flat if flat.size == channels else None
