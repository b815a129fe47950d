"""What a layer can do about the errors of those before it, measured on samples.

With x the input that the compressed layers before leave, y the layer's output in the float model
and r = y - w x - b, the weights w + d err by E|r - d x|^2: least at d = E[r x^T] E[x x^T]^-1. As
that is regression, it is guarded: d is found on either half of the samples and scaled by what it
saves on the other half. The bias takes up the mean of what is left where the activation function
behind lets it through: what a Relu cuts off does no harm, and its mean would shift what it does
not cut. Shape legend: as in qtool.compress.hessian; P positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from qtool.compress.hessian import Hessian
from qtool.model import Model, array, attribute
from qtool.runtime.ort import OrtSession
from qtool.runtime.outputs import prefix
from qtool.shapes import infer_shapes
from qtool.stages._positions import windows
from qtool.stages._probe import spread
from qtool.stages._weights import WeightLayer
from qtool.statistics.gram import Layer, Window, gram_layers

Float64 = npt.NDArray[np.float64]
Array = npt.NDArray[Any]

SAMPLES = 128
MOST = 1024
HELD_BYTES = 1 << 26
SEEN = 0.01  # the least share of positions whose mean counts
POSITIONS = 1 << 16  # of all samples together, drawn at random where they have more


@dataclass(frozen=True)
class Found:
    """Sums over positions, of each half of the samples.

    cross: r (x, 1)^T, (2, G, C, K + 1). inputs: x, (2, G, K). Where the output counts, of both
    halves together: seen: (x, 1), and rest: r, (G, C, K + 1) and (G, C).
    """

    cross: Float64
    inputs: Float64
    counts: tuple[int, int]
    seen: Float64
    rest: Float64
    n_samples: int
    second: Float64 | None = None  # x x^T, (G, K, K), where it was asked for


@dataclass(frozen=True)
class Sums:
    """What Found sums up, of one sample."""

    cross: Float64
    inputs: Float64
    count: int
    seen: Float64
    rest: Float64
    second: Float64 | None


class Follower:
    """Measures, for one layer after the other, what those before it did to its output."""

    def __init__(
        self,
        model: Model,
        samples: Sequence[Any],
        threads: int,
        *,
        shaped: Model | None = None,
        second: bool = False,
    ) -> None:
        """Take the float model and the samples, which stay in memory.

        shaped: a model with the shapes of the candidates, where they are others. second: also sum
        x x^T.
        """
        self._model, self._samples, self._second = model, samples, second
        self._layers = {layer.name: layer for layer in gram_layers(infer_shapes(shaped or model))}
        self._inputs = {spec.name for spec in model.inputs()}
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="qtool-follow")

    def of(
        self, candidate: Model, layer: WeightLayer, kept: npt.NDArray[Any] | None = None
    ) -> Found | None:
        """Return what is found; candidate holds the float weights of this layer, still.

        kept: the output channels that a candidate of fewer has. None where the layer is no Conv
        or Gemm that its bias belongs to.
        """
        name = layer.node.outputs[0].name or ""
        where = self._layers.get(name)
        if where is None or not layer.bias_moves or not layer.has_gram:
            return None
        wanted = _prefix(self._model, [name])
        outside = where.tensor in self._inputs
        mine = _prefix(candidate, [name] if outside else [name, where.tensor])

        limits = _limits(layer.node)

        def one(number: int) -> Sums:
            feeds = self._samples[number].feeds
            got, y = mine.run(feeds), wanted.run(feeds)[name]
            x = np.asarray(feeds[where.tensor] if outside else got[where.tensor], np.float32)
            y = y if kept is None else np.compress(kept, y, axis=1)
            both = np.stack([y, got[name]]).astype(np.float64)
            rng = np.random.default_rng(number)
            most = max(POSITIONS // len(self._samples), 1)
            return _sums(where, x, both, limits, rng, most, second=self._second)

        return _added(list(self._pool.map(one, range(len(self._samples)))))


def _prefix(model: Model, names: Sequence[str]) -> OrtSession:
    return OrtSession(Model(prefix(model.ir, names)), outputs=names)


def _limits(node: ir.Node) -> tuple[float, float]:
    """Return between which outputs of a layer what follows it lets changes through."""
    found = {use.node.op_type: use.node for use in node.outputs[0].uses()}
    if set(found) == {"Relu"}:
        return 0.0, np.inf
    if set(found) == {"Clip"}:
        clip = found["Clip"]
        given = [*map(array, clip.inputs[1:]), None, None]
        ends = attribute(clip, "min", -np.inf), attribute(clip, "max", np.inf)
        low, high = (e if v is None else float(v) for v, e in zip(given, ends, strict=False))
        return low, high
    return -np.inf, np.inf


def _sums(
    layer: Layer,
    x: Array,
    both: Float64,
    limits: tuple[float, float],
    rng: np.random.Generator,
    most: int,
    *,
    second: bool = False,
) -> Sums:
    """Return what Found sums up, of one sample; both are y and the output that there is."""
    if layer.window is None:
        rows = np.moveaxis(x, layer.axis, -1).reshape(1, -1, layer.depth)
        outputs = both.reshape(2, rows.shape[1], 1, -1).transpose(0, 2, 3, 1)
    else:
        rows, outputs = _windows(layer, layer.window, x, both, rng, most)
    first = np.concatenate([rows.astype(np.float64), np.ones((*rows.shape[:2], 1))], 2)
    rest = outputs[0] - outputs[1]
    counts = ((outputs > limits[0]) & (outputs < limits[1])).any(0).astype(np.float64)
    x_only = first[..., :-1]
    squares = np.swapaxes(x_only, 1, 2) @ x_only if second else None
    passed = np.sum(counts * rest, axis=-1)
    return Sums(rest @ first, x_only.sum(1), rows.shape[1], counts @ first, passed, squares)


def _windows(
    layer: Layer, window: Window, x: Array, both: Float64, rng: np.random.Generator, most: int
) -> tuple[Array, Float64]:
    """Return x (G, P, K) at `most` positions of a convolution, and both outputs, (2, G, C, P)."""
    out = window.placed(x.shape[2:])[1]
    count = int(np.prod([x.shape[0], *out]))
    chosen = np.arange(count)
    if count > most:
        chosen = np.sort(rng.choice(count, most, replace=False))
    at = np.unravel_index(chosen, (x.shape[0], *out))
    taken = np.moveaxis(windows(x, window), 1, x.ndim - 1)[tuple(at)]  # (P, channels, kernel)
    rows = taken.reshape(len(chosen), layer.groups, layer.depth).transpose(1, 0, 2)
    kept = np.moveaxis(both, (2, 0), (-1, -2))[tuple(at)]  # (P, 2, G * C)
    return rows, kept.reshape(len(chosen), 2, layer.groups, -1).transpose(1, 2, 3, 0)


def _added(parts: Sequence[Sums]) -> Found:
    """Add the samples up in their order, so that threads do not change a bit."""
    first = parts[0]
    halves = [parts[half::2] for half in (0, 1)]
    return Found(
        np.stack([sum((p.cross for p in half), np.zeros_like(first.cross)) for half in halves]),
        np.stack([sum((p.inputs for p in half), np.zeros_like(first.inputs)) for half in halves]),
        (sum(p.count for p in halves[0]), sum(p.count for p in halves[1])),
        sum((p.seen for p in parts), np.zeros_like(first.seen)),
        sum((p.rest for p in parts), np.zeros_like(first.rest)),
        len(parts),
        None if first.second is None
        else sum((p.second for p in parts if p.second is not None), np.zeros_like(first.second)),
    )  # fmt: skip


def followed(rows: Float64, hessian: Hessian, found: Found) -> Float64:
    """Return the rows (G, C, K) that make up for what was found."""
    first, second = found.counts
    if not first or not second:
        return rows
    n = np.array([first, second], np.float64)[:, None, None, None]
    mean = found.inputs.sum(0) / (first + second)
    centred = (found.cross[..., :-1] - found.cross[..., -1:] * mean[:, None, :]) / n
    independent = float(np.sqrt(float(first + second) * found.n_samples)) / 2  # as Hessian.regular
    halves = independent / (independent + hessian.depth) * centred
    moves = np.swapaxes(np.linalg.solve(hessian.regular, np.swapaxes(halves, -1, -2)), -1, -2)
    return np.asarray(rows + _worth(moves, halves, hessian.regular) * moves.mean(0))


def shift(before: Float64, after: Float64, found: Found) -> Float64:
    """Return what the bias takes up, (G * C,), once the rows `before` are `after`.

    Channels that let hardly anything through get the mean over all positions.
    """
    change = before - after
    total = max(sum(found.counts), 1)
    everywhere = found.cross.sum(0)[..., -1] + np.einsum("gck,gk->gc", change, found.inputs.sum(0))
    n = found.seen[..., -1]
    here = found.rest + np.einsum("gck,gck->gc", change, found.seen[..., :-1])
    few = n < SEEN * total
    return np.asarray(np.where(few, everywhere / total, here / np.where(few, 1, n)).ravel())


def measured(found: Found) -> Hessian:
    """Return the Hessian of the x that were seen; asked for with `second`."""
    assert found.second is not None
    n = max(sum(found.counts), 1)
    mean = found.inputs.sum(0) / n
    covariance = found.second / n - mean[:, :, None] * mean[:, None, :]
    return Hessian(covariance, mean, n, found.n_samples)


def _worth(moves: Float64, halves: Float64, h: Float64) -> float:
    """Return what to scale both moves by: what saves most on the half that each did not see."""
    saved = float(np.sum(moves[0] * halves[1]) + np.sum(moves[1] * halves[0]))
    power = float(np.einsum("hgck,hgck->", moves @ h, moves))
    return min(max(saved / power, 0.0), 1.0) if power > 0 else 0.0


def some(data: Any) -> list[Any]:
    """Return samples evenly over the data: SAMPLES of them, more up to MOST where they are small.

    None where the data have no numbers.
    """
    if data is None or not hasattr(data, "__getitem__") or not len(data):
        return []
    size = sum(np.asarray(x).nbytes for x in data[0].feeds.values())
    wanted = min(max(SAMPLES, HELD_BYTES // max(size, 1)), MOST)
    return [data[i] for i in spread(len(data), wanted)]
