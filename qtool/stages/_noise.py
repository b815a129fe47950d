"""The noise that quantization adds at one layer, predicted from statistics alone.

    y = W x + b;  noise = dW H dW^T / n  +  sum_k |Wq_k|^2 min(e_x^2, H_kk / n)  +  e_y^2

with H of the layer's input, x augmented with 1, and e_x^2, e_y^2 the squared error that the grids
of input and output make of the calibrated histograms; an element that is always 0 stays exact.
Without H the input counts as white.

Unit: mean square per element of the layer's output. Shape legend: as in qtool.quant.pairs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from qtool.model import Statistics, TensorStatistics, array, attribute
from qtool.qparams import Float32, QParams
from qtool.quant.channels import channel_axis
from qtool.quant.pairs import Pair, rows
from qtool.quant.qdq_chains import moves
from qtool.statistics.density import density, energy, error
from qtool.statistics.gram import matrix

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Error:
    """What one grid makes of a tensor, mean squares per element: all of it, and its clipping."""

    total: float = 0.0
    clipping: float = 0.0


@dataclass(frozen=True)
class Noise:
    """The noise of one layer by where it comes from, and the signal it is added to.

    inputs and output have the part that clipping makes. exact:
    whether H was there. carried: of noise as strong as the input itself, what arrives.
    """

    signal: float
    weights: float
    inputs: Error
    output: Error
    exact: bool = True
    carried: float | None = None

    @property
    def growth(self) -> float:
        """Noise over signal at the output, of each unit of it at the input."""
        return 1.0 if self.carried is None or self.signal <= 0 else self.carried / self.signal

    @property
    def without_inputs(self) -> float:
        """Noise over signal, but for what the grids of the inputs add."""
        return (self.weights + self.output.total) / self.signal if self.signal > 0 else 0.0

    @property
    def total(self) -> float:
        """The mean square of all the noise."""
        return self.weights + self.inputs.total + self.output.total

    @property
    def relative(self) -> float:
        """Noise over signal; 0 for a layer that only gives zeros."""
        return self.total / self.signal if self.signal > 0 else 0.0

    @property
    def sqnr(self) -> float:
        """Signal over noise, dB."""
        return -10 * math.log10(self.relative) if self.relative > 0 else math.inf


def noise_of(pair: Pair, statistics: Statistics) -> Noise | None:
    """Return the noise of a pair; None where the statistics lack its output."""
    known = statistics.tensors
    y = known.get(pair.output) or known.get(pair.node.outputs[0].name or "")
    x = [(_read(pair.node.inputs[index], known), qparams) for index, _, qparams in pair.inputs]
    incoming = _sum([grid_error(t, q) for t, q in x if t is not None])
    output = Error() if y is None else grid_error(y, pair.output_qparams)
    if pair.weight is None:
        return None if y is None else Noise(power(y), 0.0, incoming, output)
    made = _weighted(pair, statistics, incoming, _first_input(pair, known))
    if made is None:
        return None
    if y is None:
        signal, active = _clamped(pair, statistics) or (made.signal, 1.0)
        joined = _joined(pair, known)
        output = Error() if joined is None else grid_error(joined, pair.output_qparams)
    else:
        signal = power(y)
        active = 1 - y.n_zeros / y.count if pair.clamps and y.count else 1.0
    return Noise(
        signal,
        made.weights * active,
        Error(made.inputs.total * active, made.inputs.clipping * active),
        output,
        made.exact,
        None if made.carried is None else made.carried * active,
    )


def power(known: TensorStatistics) -> float:
    """Return the mean square of a tensor's elements."""
    if not known.count or known.minimum == known.maximum == 0:
        return 0.0
    return energy(density(known)) * math.ldexp(1.0, 2 * known.exponent) / known.count


def grid_error(known: TensorStatistics, qparams: QParams | None) -> Error:
    """Return the mean squared error of a tensor on the grid of per-tensor qparams."""
    if qparams is None or not known.count or known.minimum == known.maximum == 0:
        return Error()
    qmin, qmax = qparams.limits
    scale, zero = float(qparams.scale), int(qparams.zero_point)
    low, high = (qmin - zero) * scale, (qmax - zero) * scale
    unit = -known.exponent
    found = error(
        density(known),
        math.ldexp(low, unit),
        math.ldexp(high, unit),
        levels=qmax - qmin + 1,
        symmetric=False,
    )
    total = found * math.ldexp(1.0, 2 * known.exponent) / known.count
    return Error(total, min(_clipped(known, low, high), total))


def _clipped(known: TensorStatistics, low: float, high: float) -> float:
    n = len(known.counts)
    centres = np.ldexp(np.arange(known.first, known.first + n) + 0.5, known.exponent)
    centres = np.clip(centres, known.minimum, known.maximum)
    outside = np.maximum(low - centres, 0) + np.maximum(centres - high, 0)
    return float(known.counts @ outside**2 / known.count)


def _weighted(
    pair: Pair, statistics: Statistics, incoming: Error, x: TensorStatistics | None
) -> Noise | None:
    """Return the noise of a layer before its clamps and its output's grid."""
    assert pair.weight is not None
    assert pair.weight_at is not None
    given = array(pair.node.inputs[pair.weight_at])
    if given is None or given.shape != pair.weight.real.shape:
        return None
    real, made = rows(pair.node, given), rows(pair.node, pair.weight.real)
    gram = statistics.grams.get(pair.node.outputs[0].name or "")
    if real is None or made is None or gram is None or gram.size != real.shape[-1] + 1:
        return _white(given, pair.weight.real, incoming, x, pair.node)
    n_rows = real.shape[0] * real.shape[1]
    h = matrix(gram) / max(gram.count, 1)
    bias, bias_made = _biases(pair, real.shape[:2])
    signal = quadratic(np.concatenate([real, bias], axis=2), h) / n_rows
    apart = np.concatenate([made - real, bias_made - bias], axis=2)
    columns = np.sum(made**2, axis=1) / n_rows  # (groups, K)
    strength = np.diagonal(h, axis1=1, axis2=2)[:, :-1]
    heard = float(np.sum(columns * np.minimum(strength, incoming.total)))
    inputs = Error(heard, heard * incoming.clipping / incoming.total if incoming.total else 0.0)
    return Noise(
        signal, quadratic(apart, h) / n_rows, inputs, Error(), carried=_carried(made, h, n_rows)
    )


def _carried(weight: Float64, h: Float64, n_rows: int) -> float | None:
    """Return what a layer makes of noise as strong as its input; None where the input is constant.

    Noise has no mean and, in each element, a power in proportion to the variance there. How its
    elements go together lies between not at all and as those of the signal: the geometric mean.
    """
    mean = h[:, :-1, -1]
    moving = h[:, :-1, :-1] - mean[:, :, None] * mean[:, None, :]
    variances = np.maximum(np.diagonal(moving, axis1=1, axis2=2), 0)
    if not variances.any():
        return None
    apart = float(np.einsum("gmk,gk->", weight**2, variances))
    strength = float(np.trace(h[:, :-1, :-1], axis1=1, axis2=2).sum() / variances.sum())
    return math.sqrt(apart * quadratic(weight, moving)) * strength / n_rows


def _clamped(pair: Pair, statistics: Statistics) -> tuple[float, float] | None:
    """Return signal and share of elements above 0 behind the clamps of an output never observed.

    Each channel counts as normal, with the mean and the variance that H tells.
    """
    gram = statistics.grams.get(pair.node.outputs[0].name or "")
    given = array(pair.node.inputs[pair.weight_at or 0])
    real = None if given is None else rows(pair.node, given)
    if not pair.clamps or gram is None or real is None or gram.size != real.shape[-1] + 1:
        return None
    h = matrix(gram) / max(gram.count, 1)
    values = np.concatenate([real, _biases(pair, real.shape[:2])[0]], axis=2)
    mean = np.einsum("gmk,gk->gm", values, h[:, :, -1])
    square = np.einsum("gmk,gmk->gm", values @ h, values)
    spread = np.sqrt(np.maximum(square - mean**2, 1e-30))
    above = 0.5 * (1 + np.vectorize(math.erf)(mean / spread / math.sqrt(2)))
    edge = np.exp(-0.5 * (mean / spread) ** 2) / math.sqrt(2 * math.pi)
    return float(np.mean(square * above + mean * spread * edge)), float(above.mean())


def _joined(pair: Pair, known: Mapping[str, TensorStatistics]) -> TensorStatistics | None:
    """Return the statistics of the Concat that reads the output of a pair, if any does."""
    value: ir.Value | None = pair.node.outputs[0]
    for _ in range(len(pair.clamps)):
        users = [] if value is None else value.consumers()
        value = users[0].outputs[0] if users else None
    readers = [] if value is None else value.consumers()
    names = [u.outputs[0].name or "" for u in readers if u.op_type == "Concat"]
    return next((known[name] for name in names if name in known), None)


def quadratic(values: Float64, h: Float64) -> float:
    """Return the sum over groups of tr(W H W^T), W (groups, M, K) and H (groups, K, K)."""
    return float(max(0.0, np.einsum("gmk,gmk->", values @ h, values)))


def _biases(pair: Pair, shape: tuple[int, ...]) -> tuple[Float64, Float64]:
    """Return the bias of both models as (groups, M, 1)."""
    at = 2 if pair.node.op_type in ("Conv", "Gemm") and len(pair.node.inputs) > 2 else None
    bias = None if at is None else array(pair.node.inputs[at])
    if bias is None:
        return np.zeros((*shape, 1)), np.zeros((*shape, 1))
    real = np.broadcast_to(bias.astype(np.float64).reshape(-1), (shape[0] * shape[1],))
    made = real if pair.bias is None else pair.bias.real.astype(np.float64).reshape(-1)
    return real.reshape(*shape, 1), np.broadcast_to(made, real.shape).reshape(*shape, 1)


def _white(
    given: Float32, made: Float32, incoming: Error, x: TensorStatistics | None, node: ir.Node
) -> Noise | None:
    """Return what _weighted does, for an input of independent elements."""
    if x is None:
        return None
    n_rows, strength = _output_channels(node, given.shape), power(x)
    real, made = given.astype(np.float64), made.astype(np.float64)
    gain = float(np.sum(made**2)) / n_rows
    signal = float(np.sum(real**2)) / n_rows * strength
    weights = float(np.sum((made - real) ** 2)) / n_rows * strength
    inputs = Error(gain * incoming.total, gain * incoming.clipping)
    return Noise(signal, weights, inputs, Error(), exact=False)


def _output_channels(node: ir.Node, shape: tuple[int, ...]) -> int:
    if node.op_type == "ConvTranspose":
        return shape[1] * int(attribute(node, "group", 1))
    axis = channel_axis(node, 1, shape)
    return 1 if axis is None else shape[axis]


def _first_input(pair: Pair, known: Mapping[str, TensorStatistics]) -> TensorStatistics | None:
    values = [v for i, v in enumerate(pair.node.inputs) if i != pair.weight_at]
    return next((found for v in values if (found := _read(v, known)) is not None), None)


def _read(value: ir.Value | None, known: Mapping[str, TensorStatistics]) -> TensorStatistics | None:
    """Return the statistics of a tensor, or of the one whose elements a node moved into it."""
    while value is not None:
        if value.name and value.name in known:
            return known[value.name]
        producer = value.producer()
        value = producer.inputs[0] if producer is not None and moves(producer) else None
    return None


def _sum(errors: list[Error]) -> Error:
    return Error(sum(e.total for e in errors), sum(e.clipping for e in errors))


def cumulative(
    pairs: list[Pair], noises: Mapping[str, Noise], measured: Mapping[str, float] | None = None
) -> dict[str, float]:
    """Return noise over signal at each pair's output with all layers before it quantized too.

    Each layer passes on the share that reaches it, and its own noise is independent of that.
    Noise has no mean, while the signal loses some of its own in a layer: the share then grows.
    Statistics tell by how much in one layer, but not over many: what reaches a layer grows where
    it is measured. measured has noise over signal by tensor.
    """
    share: dict[str, float] = {}  # tensor -> noise over signal, its own quantization included
    known = measured or {}
    found: dict[str, float] = {}
    for pair in pairs:
        noise = noises.get(pair.label)
        if noise is None or noise.signal <= 0:
            continue
        before = _before(pair, share)
        own = noise.relative if before is None else noise.without_inputs
        carried = (before or 0.0) * (noise.growth if known else 1.0)
        found[pair.label] = own + carried
        passed = known.get(pair.output, own + carried)
        share[pair.output] = share[pair.node.outputs[0].name or ""] = passed
    return found


def _before(pair: Pair, share: Mapping[str, float]) -> float | None:
    """Return the largest noise share of what a pair reads; None where it reads only inputs."""
    found, waiting, seen = [], list(pair.node.inputs), set()
    while waiting:
        value = waiting.pop()
        if value is None or value in seen:
            continue
        seen.add(value)
        producer = value.producer()
        if value.name and value.name in share:
            found.append(share[value.name])
        elif producer is not None:
            waiting.extend(producer.inputs)
    return max(found, default=None)
