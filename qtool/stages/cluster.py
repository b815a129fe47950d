"""cluster: weights on few values: k-means codebooks, or a grid rounded for its bits."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from qtool.compress.budget import allocate, solve
from qtool.compress.codebook import INITS, Float32, kmeans, share
from qtool.compress.grid import SLOPE, Grid, to_grid
from qtool.errors import UnsupportedError, UsageError
from qtool.formats import packed_size
from qtool.model import Model, opset
from qtool.passes.opset import raise_opset
from qtool.registry import lookup
from qtool.runtime.trial import check_runs
from qtool.sizes import tensor_bytes
from qtool.stages._followed import Follower, followed, shift, some
from qtool.stages._options import changed, drawn
from qtool.stages._probe import by_probes, by_variance, variance
from qtool.stages._refit import refit
from qtool.stages._weights import Edit, WeightLayer, weight_layers
from qtool.stages.calibrate import Progress, untracked

log = logging.getLogger("qtool")

METHODS = ("kmeans", "grid")
MIN_SIZE = 256  # weights; below, a codebook costs more than it saves
MIN_GRID = 64  # weights; below, a DequantizeLinear costs more than it saves
MAX_BITS = 8.0
TOLERANCE = 0.004  # of a size that is aimed at
DEPTHWISE_BITS = 8.0
FINE = 1 / 16  # of the slope, for layers below MIN_SIZE: their bits hardly count
TURNS = 3  # slopes tried for a size, layer after layer


@dataclass(frozen=True)
class Options:
    """What cluster does; the names are those of the command line."""

    method: str = "kmeans"
    bits: float | None = None
    clusters: int | None = None
    target_ratio: float | None = None
    init: str = "optimal"
    only: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            UsageError: one is unknown, or they contradict each other.
        """
        lookup(dict.fromkeys(METHODS), self.method, "method")
        lookup(INITS, self.init, "init")
        given = [x for x in (self.bits, self.clusters, self.target_ratio) if x is not None]
        if len(given) != 1:
            raise UsageError("give one of --bits, --clusters and --target-ratio")
        if self.method == "grid" and self.clusters is not None:
            raise UsageError("--clusters goes with --method kmeans; a grid takes --bits")
        if self.bits is not None and not 1 <= self.bits <= MAX_BITS:
            raise UsageError(f"--bits {self.bits:g} is not between 1 and 8")
        if self.clusters is not None and not 2 <= self.clusters <= 256:
            raise UsageError(f"--clusters {self.clusters} is not between 2 and 256")
        if self.target_ratio is not None and not self.target_ratio > 1:
            raise UsageError(f"--target-ratio {self.target_ratio:g} is not above 1")


def cluster(
    model: Model,
    *,
    data: Any = None,
    threads: int | None = None,
    progress: Progress = untracked,
    **options: Any,
) -> Model:
    """Return the model with weights that take few values, as `options` (fields of Options) say.

    kmeans: at most 2**bits or `clusters` float32 values a tensor; on a quantized model integers
    of its grid. grid: int8 with a DequantizeLinear, rounded for the bits that an entropy coder
    needs. With Gram statistics every weight makes up for the errors of those before it. data
    (samples) measures how much each layer matters, and on grids what each layer can make up for
    of those before it; without, relative output errors count alike.

    Raises:
        UsageError: an option is unknown or contradicts another.
        UnsupportedError: there is no weight to share, or not in this form.
    """
    chosen = Options(**options)
    layers = clusterable(model, chosen)
    samples = some(data)
    sensitivity = sensitivities(model, layers, samples, progress)
    work = Clustering(model, layers, sensitivity, chosen, threads or 1, samples, progress)
    step = {**changed(chosen), **drawn(data)}
    result = work.best(lambda made: made.then("cluster", step))
    check_runs(result)
    return result


def clusterable(model: Model, options: Options) -> list[WeightLayer]:
    """Return the layers that are clustered; say what is missing.

    Raises:
        UnsupportedError: there is none, or a grid is asked for where there is one.
    """
    least = MIN_GRID if options.method == "grid" else MIN_SIZE
    found = weight_layers(model, options.only, options.exclude, min_size=least)
    if options.method == "grid":
        found = [layer for layer in found if layer.integer is None]
    if not found:
        raise UnsupportedError(
            f"no constant weight of {least} elements or more can be clustered; "
            "`qtool inspect` shows what is in the model"
        )
    blind = sum(not layer.has_gram for layer in found)
    if blind:
        log.info(
            "%d of %d layers have no Gram statistics: their weights are rounded one by one; "
            "qtool calibrate --gram adds them",
            blind, len(found),
        )  # fmt: skip
    return found


def sensitivities(
    model: Model, layers: Sequence[WeightLayer], data: Any, progress: Progress = untracked
) -> dict[str, float]:
    """Return the cost of one unit of output error for each layer, by its name."""
    usable = data is not None and len(data) > 0
    floats = [layer for layer in layers if layer.integer is None]
    found = by_variance(layers)
    if usable and len(floats) == len(layers):
        found = by_probes(model, layers, data, progress)
    return found


Named = Callable[[Model, float], Model]


@dataclass(frozen=True)
class Sized:
    """A model of a size: its slope (of codebooks the bits), and the bytes of the packed file."""

    level: float
    n_bytes: int
    model: Model


class Clustering:
    """One clustering of a model, tried at different budgets."""

    def __init__(
        self,
        model: Model,
        layers: Sequence[WeightLayer],
        sensitivity: Mapping[str, float],
        options: Options,
        threads: int,
        samples: Sequence[Any] = (),
        progress: Progress = untracked,
    ) -> None:
        """Take what stays the same for all budgets; the samples are what layers make up by."""
        self._samples, self._progress = samples, progress
        self._model, self._layers, self._options = model, layers, options
        self._sensitivity, self._threads = sensitivity, threads
        self._weights = sum(layer.size for layer in layers)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="qtool-cluster")

    def best(self, named: Callable[[Model], Model]) -> Model:
        """Return the model that the options ask for; named adds to its history."""
        options = self._options
        if options.target_ratio is not None:
            wanted = float_bytes(self._model) / options.target_ratio
            found = self.sized(wanted, named=lambda made, _: named(made))
            check_size(found.n_bytes, wanted)
            return found.model
        if options.method == "grid":
            return named(self.final(self._of_bits(options.bits or MAX_BITS)))
        return named(self.shared(options.bits or float(np.log2(options.clusters or 256))))

    def at_size(self, wanted: float, *, max: bool = False, follow: bool = True) -> Model:
        """Return the model whose packed file, with --max or not, has just under `wanted` bytes.

        follow: let layers make up for those before them, where there are samples.

        Raises:
            UnsupportedError: there is none so small.
        """
        found = self.sized(wanted, max=max, follow=follow)
        check_size(found.n_bytes, wanted)
        return found.model

    def sized(
        self,
        wanted: float,
        *,
        max: bool = False,
        named: Named = lambda m, _: m,
        follow: bool = True,
    ) -> Sized:
        """Return the model whose packed file has just under `wanted` bytes, or the smallest found.

        named adds to the history of a model, given the slope, or the bits of codebooks.
        """
        made: dict[float, Sized] = {}
        grid = self._options.method == "grid"

        def size(x: float) -> float:
            made[x] = self._packed(x, self._at(x), max, named)
            log.debug("%.3f: %d bytes, %d wanted", x, made[x].n_bytes, wanted)
            return float(made[x].n_bytes)

        start = self.start(wanted) if grid else self._bits(wanted)
        rate = self._weights / 8 / (2 if grid else 1)
        x = solve(size, wanted, start, slope=rate, tolerance=TOLERANCE)
        if not (grid and follow and self._samples) or made[x].n_bytes > wanted:
            return made[x]
        for _ in range(TURNS):
            found = self._packed(x, self.final(2**-x), max, named)
            if found.n_bytes <= wanted:
                return found
            x -= (found.n_bytes - wanted * (1 - TOLERANCE / 2)) / rate
        return min(made.values(), key=lambda one: (one.n_bytes > wanted, wanted - one.n_bytes))

    def _at(self, x: float) -> Model:
        return self.on_grid(2**-x) if self._options.method == "grid" else self.shared(x)

    def _packed(self, x: float, model: Model, max: bool, named: Named) -> Sized:
        level = 2**-x if self._options.method == "grid" else x
        made = named(model, level)
        bare = replace(made, statistics=None)
        return Sized(level, packed_size(bare, max=max, threads=self._threads), made)

    def final(self, slope: float) -> Model:
        """Return the model on the grids of this slope: in turn where there are samples."""
        return self.in_turn(slope) if self._samples else self.on_grid(slope)

    def _bits(self, n_bytes: float) -> float:
        return min(max(n_bytes * 8 / max(self._weights, 1), 1.0), MAX_BITS)

    def _of_bits(self, bits: float) -> float:
        """Return the slope of grids of so many bits a weight on average.

        Layers below MIN_SIZE do not count, unless there are no others: tables are most of theirs.
        """
        counted = [layer.size >= MIN_SIZE for layer in self._layers]
        if not any(counted):
            counted = [True] * len(counted)
        weights = sum(x.size for x, counts in zip(self._layers, counted, strict=True) if counts)

        def size(x: float) -> float:
            grids = zip(self.grids(2**-x), counted, strict=True)
            return sum(grid.bits for grid, counts in grids if counts) / weights

        start = 2 * bits + self._offset()
        return float(2 ** -solve(size, bits, start, slope=0.5, tolerance=TOLERANCE))

    def start(self, n_bytes: float) -> float:
        """Return -log2 of about the slope that makes a file of so many bytes."""
        return 2 * n_bytes * 8 / max(self._weights, 1) + self._offset()

    def pairs(self, slope: float) -> list[tuple[Grid, WeightLayer]]:
        """Return each layer with its grid at this slope."""
        return list(zip(self.grids(slope), self._layers, strict=True))

    def _offset(self) -> float:
        """Return x at 0 bits: -log2 of the slope where the step is a weight's deviation."""
        logs = [np.log2(self._cost(layer) * SLOPE * 2) for layer in self._layers]
        sizes = [layer.size for layer in self._layers]
        return -float(np.average(logs, weights=sizes)) - 4.0

    def _cost(self, layer: WeightLayer) -> float:
        """Return what the error of a weight costs, of one standard deviation each."""
        pivots = np.einsum("gkk->gk", layer.hessian.factors) ** 2
        per_weight = float(np.mean(layer.rows**2)) * float(pivots.mean())
        return max(per_weight * self._sensitivity[layer.name], 1e-300)

    def _price(self, layer: WeightLayer, slope: float) -> float:
        """Return the slope in the layer's output error; the smallest layers get two bits more."""
        fine = FINE if layer.size < MIN_SIZE else 1.0
        return fine * slope / self._sensitivity[layer.name]

    def grids(self, slope: float) -> list[Grid]:
        """Return every layer on the grid of this slope, in cost at the outputs per bit."""
        return list(self._pool.map(
            lambda layer: to_grid(
                layer.rows, layer.hessian, self._price(layer, slope), zeros(layer)
            ),
            self._layers,
        ))  # fmt: skip

    def on_grid(self, slope: float) -> Model:
        """Return the model on the grids of this slope."""
        result = self._opened()
        edit, copies = Edit(result), self._copies(result)
        for layer, grid in zip(copies, self.grids(slope), strict=True):
            edit.bias(layer, layer.rows - grid.rows)
            edit.grid(layer, grid.integers, grid.steps)
        edit.round_biases(copies)
        return result

    def in_turn(self, slope: float) -> Model:
        """Return the model on the grids of this slope, layer after layer.

        Each layer's weights and bias first make up for what the samples say that the compressed
        ones before it did to its output.
        """
        result = self._opened()
        edit, copies = Edit(result), self._copies(result)
        follower = Follower(self._model, self._samples, self._threads)
        pairs = list(zip(self._layers, copies, strict=True))
        for layer, copy in self._progress(pairs, "compressing in turn", len(pairs)):
            found = follower.of(result, layer)
            rows = layer.rows if found is None else followed(layer.rows, layer.hessian, found)
            grid = to_grid(rows, layer.hessian, self._price(layer, slope), zeros(layer))
            if found is None:
                edit.bias(copy, rows - grid.rows)
            else:
                edit.add_bias(copy, shift(layer.rows, grid.rows, found))
            edit.grid(copy, grid.integers, grid.steps)
        edit.round_biases(copies)
        return result

    def _opened(self) -> Model:
        """Return a copy that may hold a DequantizeLinear with an axis."""
        return raise_opset(self._model, 13) if opset(self._model) < 13 else self._model.copy()

    def shared(self, bits: float) -> Model:
        """Return the model with codebooks of so many bits on average, by sensitivity."""
        numbers = self._numbers(bits)
        result = self._model.copy()
        edit, copies = Edit(result), self._copies(result)
        found = self._pool.map(self._share, self._layers, numbers)
        for before, layer, codebook in zip(self._layers, copies, found, strict=True):
            if layer.integer is not None:
                edit.integers(layer, codebook.rows)
                refit(edit, layer, before.rows, codebook.rows * before.scales[..., None])
                continue
            edit.bias(layer, layer.rows - codebook.rows)
            edit.floats(layer, codebook.rows)
        if self._options.target_ratio is not None:
            edit.round_biases([layer for layer in copies if layer.integer is None])
        return result

    def _numbers(self, bits: float) -> list[int]:
        """Return how many values each layer gets; depthwise ones, which are small, 256."""
        if self._options.clusters is not None:
            return [self._options.clusters] * len(self._layers)
        small = [layer.depthwise for layer in self._layers]
        others = [layer for layer in self._layers if not layer.depthwise]
        costs = [self._cost(layer) for layer in others]
        given = iter(allocate(costs, [layer.size for layer in others], bits, MAX_BITS))
        chosen = [DEPTHWISE_BITS if deep else next(given) for deep in small]
        return [max(2, min(256, round(2**b))) for b in chosen]

    def _share(self, layer: WeightLayer, k: int) -> Any:
        rows, hessian, mask = layer.rows, layer.hessian, zeros(layer)
        power = np.sqrt(np.einsum("gkk->gk", hessian.regular))[:, None]
        units = rows / layer.scales[..., None]
        weights = np.broadcast_to(power * layer.scales[..., None], rows.shape)
        centroids = start = self._centroids(units, weights, k, pinned=mask is not None)
        snap: Callable[..., Any] = lambda c: c.astype(np.float32).astype(np.float64)  # noqa: E731
        if layer.integer is not None:
            start = np.unique(np.round(centroids))
            snap = lambda c: np.clip(np.round(c), -127, 127)  # noqa: E731
        error = variance(layer) / max(layer.size, 1)
        found = share(
            rows, hessian, start, scales=layer.scales, mask=mask, snap=snap,
            slope=error * 2.0 ** (-2 * np.log2(k)) / 4,
        )  # fmt: skip
        if layer.integer is not None:
            return replace(found, centroids=found.centroids)
        return found

    def _centroids(self, units: Any, weights: Any, k: int, *, pinned: bool) -> Any:
        values = units.astype(np.float32)
        kept: Float32 = np.ascontiguousarray(weights, np.float32)
        if pinned:
            alive = values != 0
            found = kmeans(values[alive], k - 1, weights=kept[alive], init=self._options.init)
            return np.unique(np.append(found, np.float32(0))).astype(np.float64)
        return kmeans(values, k, weights=kept, init=self._options.init).astype(np.float64)

    def _copies(self, result: Model) -> list[WeightLayer]:
        """Return the layers of a copy of the model, in the order of mine."""
        wanted = {layer.name: i for i, layer in enumerate(self._layers)}
        found = [x for x in weight_layers(result, min_size=MIN_GRID) if x.name in wanted]
        for layer in found:
            layer.hessian = self._layers[wanted[layer.name]].hessian
        return sorted(found, key=lambda layer: wanted[layer.name])


def zeros(layer: WeightLayer) -> Any:
    """Return 0 where weights stay 0, as rows; None where few are: those are by chance."""
    rows = layer.rows_layout.of(layer.weights)
    mask = (rows != 0).astype(np.uint8)
    return mask if mask.mean() < 0.95 else None


def check_size(n_bytes: int, wanted: float) -> None:
    """Check that a file is as small as it was to be.

    Raises:
        UnsupportedError: it is not.
    """
    if n_bytes > wanted:
        raise UnsupportedError(
            f"no file of {wanted:.0f} bytes: the smallest that was found has {n_bytes}; "
            f"ask for a size of {n_bytes} or more"
        )


def float_bytes(model: Model) -> int:
    """Return the bytes of the constants as float32 would hold them."""
    total = 0
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if tensor is not None:
            small = tensor.dtype.bitwidth < 32 and len(tensor.shape) > 1
            total += 4 * tensor.size if small else tensor_bytes(tensor)
    return total
