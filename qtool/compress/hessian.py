"""A layer's input as what changes of its weights cost: qtool.hessian per x, made regular.

Shape legend: G groups, C rows (output channels) of each, K weights of each row; a weight as rows
has shape (G, C, K).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from qtool import _native, hessian

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Hessian:
    """What is known of the input of one layer, per x: matrix (G, K, K) and mean (G, K).

    matrix is the covariance where `centered` (the layer's bias takes up the mean of the error),
    else the mean of x x^T; it is what the samples say. `regular` is what to decide with.
    """

    matrix: Float64
    mean: Float64
    count: int  # x summed
    n_samples: int
    centered: bool = True

    @property
    def depth(self) -> int:
        """K."""
        return int(self.matrix.shape[-1])

    @cached_property
    def regular(self) -> Float64:
        """The matrix, shrunk towards its diagonal as few samples ask for, with a ridge.

        A covariance of n independent x is good for K << n. The x of one sample are alike, so
        n = sqrt(count * n_samples) is taken, between their numbers; the share of the diagonal is
        K / (K + n). Without it, errors hide where these samples, by chance, do not look.
        """
        n_independent = float(np.sqrt(float(self.count) * self.n_samples))
        share = self.depth / (self.depth + n_independent)
        diagonal = np.einsum("gkk->gk", self.matrix)
        found = (1 - share) * self.matrix
        ridge = hessian.DAMPING * diagonal.mean(1, keepdims=True)
        floor = np.maximum(ridge, np.finfo(np.float32).tiny)
        np.einsum("gkk->gk", found)[...] = diagonal + floor
        return found

    @cached_property
    def order(self) -> npt.NDArray[np.intp]:
        """Columns by falling diagonal, (G, K): what weighs most is decided first."""
        return np.argsort(-np.einsum("gkk->gk", self.regular), axis=1, kind="stable")

    @cached_property
    def factors(self) -> Float64:
        """R of each group with its columns in `order`, upper triangular, H = R R^T."""
        return np.stack([
            factor(h[np.ix_(order, order)])
            for h, order in zip(self.regular, self.order, strict=True)
        ])  # fmt: skip


def factor(matrix: Float64) -> Float64:
    """Return R, upper triangular with positive diagonal, of a positive definite H = R R^T.

    A matrix that rounding made indefinite gets more of its diagonal until it is not.
    """
    found = np.array(matrix, np.float64, order="C")
    extra = 1e-6
    while not _native.reverse_cholesky(found):
        found = np.array(matrix, np.float64, order="C")
        diagonal = np.einsum("kk->k", found)
        diagonal += extra * max(float(diagonal.mean()), 1e-30)
        extra *= 10
    return np.triu(found)


def from_gram(full: Float64, count: int, n_samples: int, *, centered: bool = True) -> Hessian:
    """Return the Hessian of a Gram matrix (G, K + 1, K + 1) whose last row is that of the 1."""
    n = max(count, 1)
    matrix = hessian.centred(full) if centered else full[:, :-1, :-1]
    return Hessian(matrix / n, hessian.mean(full), count, n_samples, centered)


def without_statistics(groups: int, depth: int) -> Hessian:
    """Return the Hessian of inputs that nothing is known of: independent, of variance 1."""
    eye = np.broadcast_to(np.eye(depth), (groups, depth, depth))
    return Hessian(eye, np.zeros((groups, depth)), 1 << 40, 1 << 20)
