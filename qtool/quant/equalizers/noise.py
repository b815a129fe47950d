"""The predicted error of a quantized model, as a function of the factors.

Quantizing a tensor of range R to n levels adds noise of variance (R / n)^2 / 12 to each value. In
the units of the original model, output j of a layer with weight w' = w s_j / s_i and input s_i x_i
errs by

    e_j = sum_i (d_j s_i / s_j)^2 k var(x_i) / 12 + sum_i w_ji^2 (d / s_i)^2 / 12

where d_j = max |w'_j| / 127 (over all j where weights have one scale per tensor), and
d = max_i s_i |x_i| / 255. The mean of x_i does not count: what it adds is corrected in the bias.
Errors count by their importance: how much noise in channel j becomes noise of the layers behind,
relative to the signal there.

Shape legend: as in qtool/quant/equalize.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qtool.quant.equalize import Float64, Layer, Problem
from qtool.quant.ties import Ids

TINY = 1e-30


def importance(problem: Problem) -> list[Float64]:
    """Return the importance of each layer's outputs, (G, A): of a unit of noise variance there.

    From the back: noise passes a layer by the squares of its weights. Each layer's is scaled so
    that its whole signal has importance 1.
    """
    behind = np.zeros(len(problem.lower))
    found: list[Float64] = []
    for layer, variance in zip(
        reversed(problem.layers), reversed(problem.output_variance), strict=True
    ):
        g = behind[layer.outputs]
        if not g.any():
            g = np.ones_like(g)
        g = g / max(float((g * variance).sum()), TINY)
        found.append(g)
        np.add.at(behind, layer.inputs, np.einsum("ga,gab->gb", g, layer.squares))
    return found[::-1]


@dataclass(frozen=True)
class _LayerTerm:
    """One layer's part of the error, with norms in the place of maxima."""

    layer: Layer
    g: Float64  # importance
    peaks: Float64  # (largest / top) ** power
    top: float
    passed: Float64  # (G, B): sum_j g_j w_ji^2
    variance: Float64  # (G, B), times k
    source: int


@dataclass(frozen=True)
class Terms:
    """The error and its slope with respect to u = log s."""

    problem: Problem
    layers: Sequence[_LayerTerm]
    power: float

    def __call__(self, u: Float64) -> tuple[float, Float64]:
        """Return the logarithm of the error at u and its gradient."""
        total, slope = 0.0, np.zeros_like(u)
        norms = [self._norm(one.ids, one.size, u) for one in self.problem.ranges]
        for term in self.layers:
            total += self._weights(term, u, slope)
            if term.source >= 0:
                total += self._activations(term, u, slope, *norms[term.source])
        return float(np.log(total)), slope / total

    def _norm(self, ids: Ids, size: Float64, u: Float64) -> tuple[float, Float64]:
        """Return the p-norm of the sizes and its logarithmic gradient per element."""
        scaled = size * np.exp(u[ids])
        top = max(float(scaled.max(initial=0.0)), TINY)
        powers = (scaled / top) ** self.power
        total = float(powers.sum())
        return top * total ** (1 / self.power), powers / max(total, TINY)

    def _activations(
        self, term: _LayerTerm, u: Float64, slope: Float64, norm: float, shares: Float64
    ) -> float:
        ids = term.layer.inputs
        parts = term.passed * np.exp(-2 * u[ids]) * (norm / self.problem.levels) ** 2 / 12
        value = float(parts.sum())
        np.add.at(slope, ids, -2 * parts)
        np.add.at(slope, self.problem.ranges[term.source].ids, 2 * value * shares)
        return value

    def _weights(self, term: _LayerTerm, u: Float64, slope: Float64) -> float:
        layer, p = term.layer, self.power
        inside, outside = u[layer.inputs], u[layer.outputs]
        shift_in, shift_out = -inside.min(), outside.max()
        v, w = np.exp(-p * (inside + shift_in)), np.exp(p * (outside - shift_out))
        rows = np.einsum("gab,gb->ga", term.peaks, v)  # of d_j^p without s_j
        spread = (np.exp(2 * inside) * term.variance).sum(1)  # (G,)
        unit = (term.top / self.problem.weight_levels) ** 2 / 12 * np.exp(2 * shift_in)
        if self.problem.per_channel:
            parts = unit * term.g * (rows + TINY) ** (2 / p) * spread[:, None]
            lead = 2 * parts / (rows + TINY)
            columns = np.einsum("ga,gab->gb", lead, term.peaks) * v
            np.add.at(slope, layer.inputs, -columns)
        else:
            whole = float((rows * w).sum()) + TINY
            noise = np.exp(-2 * outside) * term.g  # by j
            parts = unit * np.exp(2 * shift_out) * whole ** (2 / p) * noise * spread[:, None]
            value = float(parts.sum())
            columns = np.einsum("ga,gab->gb", w, term.peaks) * v
            np.add.at(slope, layer.inputs, -2 * value * columns / whole)
            np.add.at(slope, layer.outputs, 2 * value * rows * w / whole - 2 * parts)
        share = np.exp(2 * inside) * term.variance / np.maximum(spread, TINY)[:, None]
        np.add.at(slope, layer.inputs, 2 * parts.sum(1)[:, None] * share)
        return float(parts.sum())


def terms(problem: Problem, weights: Sequence[Float64], power: float) -> Terms:
    """Return the error with norms of this power in the place of maxima."""
    found = []
    for layer, g, source in zip(problem.layers, weights, problem.source, strict=True):
        top = max(float(layer.largest.max(initial=0.0)), TINY)
        variance = problem.variance[layer.inputs] * layer.weight.shape[-1]
        passed = np.einsum("ga,gab->gb", g, layer.squares)
        peaks = (layer.largest / top) ** power
        found.append(_LayerTerm(layer, g, peaks, top, passed, variance, source))
    return Terms(problem, found, power)


def predicted(problem: Problem, factors: Float64) -> float:
    """Return the error with these factors: relative noise, summed over the layers."""
    return float(sum(layer_errors(problem, factors)))


def layer_errors(problem: Problem, factors: Float64) -> list[float]:
    """Return the part of each layer."""
    tops = [float((one.size * factors[one.ids]).max(initial=0.0)) for one in problem.ranges]
    found = []
    for layer, g, source in zip(problem.layers, importance(problem), problem.source, strict=True):
        inside, outside = factors[layer.inputs], factors[layer.outputs]
        peaks = (layer.largest / inside[:, None, :]).max(2) * outside
        if not problem.per_channel:
            peaks = np.full_like(peaks, peaks.max())
        step = peaks / outside / problem.weight_levels
        k = layer.weight.shape[-1]
        spread = (np.square(inside) * problem.variance[layer.inputs]).sum(1) * k
        value = float((g * np.square(step) * spread[:, None]).sum())
        if source >= 0:
            noise = np.einsum("gab,gb->ga", layer.squares, 1 / np.square(inside))
            value += float((g * noise).sum()) * (tops[source] / problem.levels) ** 2
        found.append(value / 12)
    return found
