"""The smallest weights go."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from qtool.compress.hessian import Hessian
from qtool.compress.patterns import Pattern, keep


def prune(
    rows: npt.NDArray[np.float64], hessian: Hessian, pattern: Pattern, sparsity: float
) -> npt.NDArray[np.float64]:
    """Return the rows with zeros where w^2 is the least; hessian says nothing here."""
    return np.asarray(rows * keep(rows**2, pattern, sparsity))
