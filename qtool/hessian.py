"""The Gram matrix of a layer as the quadratic form of its output error; see docs/accuracy.md.

For x the input of a layer augmented with 1 and H = sum x x^T, other weights w' in place of w err by
(w - w') H (w - w')^T, summed over the samples, for each output channel. Shape legend: C output
channels of G groups, K weights in each; a weight as rows is (G, C / G, K), H is (G, K, K).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from qtool import _native
from qtool.errors import ModelError
from qtool.model import GramStatistics, attribute

Float64 = npt.NDArray[np.float64]

DAMPING = 0.01  # of the mean of the diagonal, as in GPTQ (arXiv 2210.17323)


def matrix(statistics: GramStatistics) -> Float64:
    """Return H, float64 of shape (groups, K + 1, K + 1), each element correctly rounded to 1 ulp.

    The last row and column belong to the 1 that x is augmented with: H[:, K, K] = count and
    H[:, K, :K] = sum x.
    """
    low, high = statistics.values[..., 0], statistics.values[..., 1]
    negative = high >> np.uint64(63) == 1
    low, high = (
        np.where(negative, ~low + np.uint64(1), low),
        np.where(negative, ~high + (low == 0), high),
    )
    size = np.ldexp(high.astype(np.float64), 64 - statistics.exponent)
    size += np.ldexp(low.astype(np.float64), -statistics.exponent)
    full = np.empty((statistics.groups, statistics.size, statistics.size))
    rows, columns = np.triu_indices(statistics.size)
    full[:, rows, columns] = full[:, columns, rows] = np.where(negative, -size, size)
    return full


def centred(full: Float64) -> Float64:
    """Return H without the mean of x, (G, K, K): the error when the bias is corrected jointly.

    full is matrix(), with the row of sums s and the count n last: H - s s^T / n is the least that
    any change of the bias leaves.
    """
    sums, count = full[:, -1, :-1], full[:, -1, -1]
    n = np.maximum(count, 1.0)[:, None, None]
    return np.asarray(full[:, :-1, :-1] - sums[:, :, None] * sums[:, None, :] / n)


def mean(full: Float64) -> Float64:
    """Return the mean of x, (G, K)."""
    return np.asarray(full[:, -1, :-1] / np.maximum(full[:, -1, -1], 1.0)[:, None])


def damped(h: Float64, damping: float = DAMPING) -> Float64:
    """Return h (G, K, K) with damping times the mean of its diagonal added to the diagonal.

    It is then positive definite: inputs that are always 0 get weight too, so that their weights
    stay what they are.
    """
    diagonal = np.arange(h.shape[-1])
    added = damping * np.einsum("gkk->g", h) / max(1, h.shape[-1])
    result = h.copy()
    result[:, diagonal, diagonal] += np.where(added > 0, added, 1.0)[:, None]
    return result


def inverse_factor(h: Float64) -> Float64:
    """Return the upper triangular U with inverse(h) = U^T U, of one group's (K, K).

    Computed in one order of operations on every machine. 1 / U[k, k]**2 is the curvature of the
    loss along weight k when those after it follow optimally.

    Raises:
        ModelError: h is not positive definite; damp it.
    """
    try:
        return np.asarray(_native.inverse_factor(np.ascontiguousarray(h, np.float64)))
    except ValueError as error:
        raise ModelError(f"the Gram matrix cannot be used: {error}; damp it") from error


def output_error(weight: Float64, other: Float64, h: Float64) -> Float64:
    """Return (w - w') h (w - w')^T for each output channel, (G, C / G), of rows (G, C / G, K).

    A sum of squares over all positions of all samples; tr((W - W') H (W - W')^T) is its sum.
    """
    difference = weight - other
    return np.asarray(np.einsum("gck,gck->gc", difference @ h, difference))


@dataclass(frozen=True)
class Rows:
    """How the weight of a Conv, Gemm or MatMul is laid out beside its Gram matrix."""

    groups: int
    transposed: bool  # the depth comes first: (K, C)

    def of(self, weight: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return the weight as rows (G, C / G, K), weights in the order of H."""
        last = weight.T if self.transposed else weight
        return np.ascontiguousarray(last).reshape(self.groups, len(last) // self.groups, -1)

    def back(self, rows: npt.NDArray[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
        """Return rows (G, C / G, K) in the layout of a weight of this shape."""
        if self.transposed:
            return np.ascontiguousarray(rows.reshape(shape[::-1]).T)
        return np.ascontiguousarray(rows.reshape(shape))


def rows_of(node: ir.Node, index: int = 1) -> Rows:
    """Return the layout of the weight that a node with a Gram matrix reads as this input."""
    if node.op_type == "Conv":
        return Rows(attribute(node, "group", 1), transposed=False)
    if node.op_type == "Gemm":
        first = attribute(node, "transB" if index == 1 else "transA", 0) == (index == 1)
        return Rows(1, transposed=not first)
    return Rows(1, transposed=index == 1)
