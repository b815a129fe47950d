"""Wanda (arXiv 2306.11695): the weights that move the output least by themselves go."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from qtool.compress.hessian import Hessian
from qtool.compress.patterns import Pattern, keep


def prune(
    rows: npt.NDArray[np.float64], hessian: Hessian, pattern: Pattern, sparsity: float
) -> npt.NDArray[np.float64]:
    """Return the rows with zeros where w^2 h_jj is the least."""
    power = np.einsum("gkk->gk", hessian.regular)
    return np.asarray(rows * keep(rows**2 * power[:, None], pattern, sparsity))
