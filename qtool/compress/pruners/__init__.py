"""PRUNERS: which weights of a layer become zero, and what the others become."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from qtool.compress.hessian import Hessian
from qtool.compress.patterns import Pattern
from qtool.compress.pruners import magnitude, obs, wanda

# rows (G, C, K), the layer's input, the pattern, the share of weights that go -> rows
Pruner = Callable[[npt.NDArray[np.float64], Hessian, Pattern, float], npt.NDArray[np.float64]]

PRUNERS: dict[str, Pruner] = {
    "obs": obs.prune,
    "wanda": wanda.prune,
    "magnitude": magnitude.prune,
}
