"""Why a layer loses precision when it is quantized, and what to type against it.

The part of the noise that is largest says where to look: weights, rounding or clipping of what the
layer reads, rounding or clipping of what it gives.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from qtool.model import Statistics, TensorStatistics, array
from qtool.qparams import DTYPES, QParams
from qtool.quant.op_rules import rule_of
from qtool.quant.pairs import Pair, consumers_through_moves
from qtool.quant.selection import node_label
from qtool.stages._noise import Error, Noise

FINE_DB = 40.0  # a layer of more SQNR than this has nothing to explain,
SMALL = 0.03  # nor has one that makes less than this part of all noise
OUTLIER = 4.0  # a range this many times as wide as what holds all but a thousandth of the values
IMBALANCE = 8.0  # the largest channel over the median one
TAIL_OPS = ("Sigmoid", "Softmax", "Exp", "NonMaxSuppression", "TopK", "ArgMax")
INT32_MAX = 2**31 - 1
CLIPPED = 0.01  # of the weights: what may be farther than half a step away
WIDENED = 0.2  # of the weights' noise: what widened channels make at least
UNUSED = 0.51  # a channel of weights that reaches only this part of its integers was widened


@dataclass(frozen=True)
class Cause:
    """What is wrong, in one of six terms, with the facts; remedy is options to paste."""

    name: str
    facts: str
    remedy: str


def cause_of(
    pair: Pair, noise: Noise | None, statistics: Statistics | None, share: float = 1.0
) -> Cause | None:
    """Return the cause of most of a layer's noise; None where there is little, or none known.

    share: the layer's part of the noise that all layers make.
    """
    if noise is None or noise.sqnr > FINE_DB or share < SMALL:
        return None
    return next(_candidates(pair, noise, statistics), None)


def _candidates(pair: Pair, noise: Noise, statistics: Statistics | None) -> Iterator[Cause]:
    parts = {
        "weights": noise.weights,
        "inputs": noise.inputs.total,
        "output": noise.output.total,
    }
    worst = max(parts, key=lambda name: parts[name])
    if worst == "output" and (tail := _tail(pair)):
        yield tail
    if worst == "weights":
        yield from _of_weights(pair)
        return
    error = noise.inputs if worst == "inputs" else noise.output
    clips = error.clipping > 0.6 * error.total
    tensor, qparams = _tensor(pair, worst)
    known = None if statistics is None else statistics.tensors.get(tensor)
    if clips:
        yield _saturation(error, tensor, known, qparams)
    if known is not None and qparams is not None:
        yield from _of_range(pair, tensor, known, qparams)
    bits = 8 if qparams is None else _bits(qparams.dtype)
    if bits <= 8:
        yield Cause(
            "few levels",
            f"{bits} bits are too few for tensor {tensor!r}",
            f"--layer '{_layer_that_reads(pair, worst)}=a16'",
        )


def _saturation(
    error: Error, tensor: str, known: TensorStatistics | None, qparams: QParams | None
) -> Cause:
    facts = f"clipping makes {error.clipping / error.total:.0%} of the noise of tensor {tensor!r}"
    if known is not None and qparams is not None:
        low, high = ((q - int(qparams.zero_point)) * float(qparams.scale) for q in qparams.limits)
        facts += f": values of {known.minimum:.3g} to {known.maximum:.3g}, a range of "
        facts += f"{low:.3g} to {high:.3g}"
    return Cause("saturation", facts, "--range minmax")


def _of_weights(pair: Pair) -> Iterator[Cause]:
    weight = pair.weight
    assert weight is not None
    label, bits = pair.label, _bits(weight.dtype)
    limit = 0 if pair.bias is None else np.abs(pair.bias.integers.astype(np.int64)).max()
    clipped, widened = limit >= INT32_MAX, _widened(pair)
    if clipped or widened:
        what = "the int32 bias is at its limit"
        if not clipped:
            what = f"{widened} channels have wider scales than their weights need, for their bias"
        yield Cause("bias clip", what, f"--exclude '{label}'")
    ratio = channel_ratio(pair)
    if weight.scale.size == 1 and ratio > IMBALANCE:
        facts = f"the largest channel's weights are {ratio:.0f} times the median one's"
        yield Cause("channel imbalance", f"{facts}, and share one scale", "--per-channel")
    if bits < 8:
        yield Cause("few levels", f"its weights have {bits} bits", f"--layer '{label}=w8'")
    if weight.scale.size == 1 and ratio > 1:
        yield Cause("few levels", "one scale for all of its weights is too coarse", "--per-channel")
    if _is_nearest(pair):
        facts = "each of its weights is rounded to the nearest, whatever its input is"
        yield Cause("few levels", facts, "--rounding descent")
    if ratio > IMBALANCE:
        facts = f"the largest input channel's weights are {ratio:.0f} times the median one's"
        yield Cause("channel imbalance", facts, f"--exclude '{label}'")
    yield Cause("few levels", f"{bits} bits are too few for its weights", f"--exclude '{label}'")


def _is_nearest(pair: Pair) -> bool:
    """Return whether each weight became the nearest integer, but for those that are clipped."""
    weight, axis = pair.weight, _channels(pair)
    real = None if pair.weight_at is None else array(pair.node.inputs[pair.weight_at])
    if weight is None or real is None or real.shape != weight.real.shape:
        return False
    if weight.scale.size > 1 and axis is None:
        return False  # a scale for each block
    shape = [1] * real.ndim
    if axis is not None:
        shape[axis] = -1
    apart = np.abs(real - weight.real) / weight.scale.reshape(shape)
    return float(np.mean(apart > 0.501)) < CLIPPED


def _of_range(
    pair: Pair, tensor: str, known: TensorStatistics, qparams: QParams
) -> Iterator[Cause]:
    """Yield what a range has that is much wider than where nearly all values are."""
    low, high = qparams.limits
    width = (high - low) * float(qparams.scale)
    inner = quantile(known, 0.9995) - quantile(known, 0.0005)
    if inner <= 0 or width < OUTLIER * inner:
        return
    facts = (
        f"tensor {tensor!r} has a range {width / inner:.0f} times as wide as 99.9 % of its values"
    )
    whole = known.maximum - known.minimum
    clip_none = width > 0.98 * whole
    remedy = "--range mse" if clip_none else f"--layer '{_layer_that_reads(pair, '')}=a16'"
    yield Cause("range outlier", facts, remedy)


def _tail(pair: Pair) -> Cause | None:
    """Return a cause where only the model's outputs depend on a layer that feeds a Sigmoid..."""
    value: ir.Value = (pair.clamps[-1] if pair.clamps else pair.node).outputs[0]
    readers = list(consumers_through_moves(value))
    ops = sorted({reader.op_type for reader in readers if reader.op_type in TAIL_OPS})
    if not (value.is_graph_output() or (readers and len(ops) and _ends(readers))):
        return None
    what = f"it feeds {', '.join(ops)} at" if ops else "it is one of"
    facts = f"{what} the model's outputs, where rare extremes are the signal"
    return Cause("post-processing tail", facts, f"--exclude '{pair.label}'")


def _ends(readers: list[ir.Node]) -> bool:
    """Return whether no weighted node comes behind these."""
    waiting, seen = list(readers), set()
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        if node.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul", "LSTM", "GRU"):
            return False
        waiting += [user for value in node.outputs for user in value.consumers()]
    return True


def _widened(pair: Pair) -> int:
    """Return how many channels' scales were widened for their bias, if that makes much noise."""
    weight, axis = pair.weight, _channels(pair)
    real = None if pair.weight_at is None else array(pair.node.inputs[pair.weight_at])
    if weight is None or pair.bias is None or real is None or axis is None:
        return 0
    others = tuple(a for a in range(weight.integers.ndim) if a != axis)
    used = np.abs(weight.integers.astype(np.int64)).max(axis=others)
    bias = np.abs(pair.bias.integers.astype(np.int64)).reshape(-1)
    if bias.size != used.size or real.shape != weight.real.shape:
        return 0
    found = (used < UNUSED * DTYPES.get(weight.dtype, (0, 127))[1]) & (bias > INT32_MAX // 4)
    noise = np.sum((real - weight.real).astype(np.float64) ** 2, axis=others)
    return int(np.count_nonzero(found)) if noise[found].sum() > WIDENED * noise.sum() else 0


def _channels(pair: Pair) -> int | None:
    """Return the axis of the weight that its scales run along; None where there is one scale."""
    weight = pair.weight
    if weight is None or weight.scale.ndim != 1 or weight.scale.size == 1:
        return None
    sizes = weight.integers.shape
    return next((axis for axis, n in enumerate(sizes) if n == weight.scale.size), None)


def channel_ratio(pair: Pair) -> float:
    """Return the largest over the median of the channels' largest weights.

    Channels are outputs where one scale serves all of them, else inputs.
    """
    assert pair.weight is not None
    values = np.abs(pair.weight.real)
    axis = 0 if pair.weight.scale.size == 1 else 1
    if values.ndim < 2 or values.shape[axis] < 2:
        return 1.0
    largest = values.max(axis=tuple(a for a in range(values.ndim) if a != axis))
    middle = float(np.median(largest))
    return float(largest.max()) / middle if middle > 0 else 1.0


def quantile(known: TensorStatistics, share: float) -> float:
    """Return the value below which this share of a tensor's elements lies, within a bin."""
    below = np.cumsum(known.counts)
    index = int(np.searchsorted(below, share * known.count))
    edge = float(np.ldexp(known.first + index + (share > 0.5), known.exponent))
    return min(max(edge, known.minimum), known.maximum)


def _tensor(pair: Pair, worst: str) -> tuple[str, QParams | None]:
    if worst == "output" or not pair.inputs:
        return pair.output, pair.output_qparams
    return pair.inputs[0][1], pair.inputs[0][2]


def _layer_that_reads(pair: Pair, worst: str) -> str:
    """Return the layer whose activations are the noisy tensor: for an output, a reader of it.

    That has an integer form, for a float one could not ask for more bits: if need be the node
    that only moves the elements.
    """
    if worst == "output":
        value = (pair.clamps[-1] if pair.clamps else pair.node).outputs[0]
        for reader in (*consumers_through_moves(value), *value.consumers()):
            if rule_of(reader) is not None:
                return node_label(reader)
    return pair.label


def _bits(dtype: str) -> int:
    return int("".join(c for c in dtype if c.isdigit()) or 8)
