"""Equal ranges of weights on both sides of a channel (Nagel et al., arXiv 1906.04721)."""

from __future__ import annotations

import numpy as np

from qtool.quant.equalize import Float64, Problem, on_grid

SWEEPS = 50
SETTLED = 1e-4


def ranges(problem: Problem) -> Float64:
    """Return the factors with which r1 = r2 for each channel.

    r1 is the largest weight of the layers that make it, r2 of those that read it; s = sqrt(r2 / r1)
    moves both to their geometric mean. Layers are coupled (a depthwise layer has its weights on
    both sides), so the factors are found in sweeps.
    """
    factors = np.ones(len(problem.lower))
    for _ in range(SWEEPS):
        made, read = np.zeros(len(factors)), np.zeros(len(factors))
        for layer in problem.layers:
            out, inside = factors[layer.outputs], factors[layer.inputs]
            size = layer.largest * out[:, :, None] / inside[:, None, :]
            np.maximum.at(made, layer.outputs, size.max(2))
            np.maximum.at(read, layer.inputs, size.max(1))
        known = (made > 0) & (read > 0)
        step = np.sqrt(np.divide(read, made, out=np.ones_like(made), where=known))
        moved = np.clip(factors * step, problem.lower, problem.upper)
        settled = np.abs(moved / factors - 1).max() < SETTLED
        factors = moved
        if settled:
            break
    return on_grid(problem, factors)
