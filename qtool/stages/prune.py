"""prune: weights become zero, and those that stay make up for them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from qtool.compress.budget import solve
from qtool.compress.knapsack import Entry, choose
from qtool.compress.patterns import parse
from qtool.compress.pruners import PRUNERS
from qtool.errors import UnsupportedError, UsageError
from qtool.formats import packed_size
from qtool.hessian import output_error
from qtool.model import Model
from qtool.registry import lookup
from qtool.runtime.trial import check_runs
from qtool.stages._channels import prune_channels
from qtool.stages._followed import some
from qtool.stages._options import changed, drawn
from qtool.stages._probe import by_probes, by_variance
from qtool.stages._weights import Edit, WeightLayer, weight_layers
from qtool.stages.calibrate import Progress, untracked
from qtool.stages.cluster import check_size, float_bytes
from qtool.stages.evaluate import evaluate

log = logging.getLogger("qtool")

SCOPES = ("layer", "global")
MIN_SIZE = 64
SPARSITIES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
EVALUATIONS = 7  # of --max-drop
TOLERANCE = 0.01
FLOAT_BITS = 28.0  # of a weight that stays, packed


@dataclass(frozen=True)
class Options:
    """What prune does; the names are those of the command line."""

    sparsity: float | None = None
    scope: str = "layer"
    pattern: str = "unstructured"
    method: str | None = None  # None: obs with Gram statistics, else magnitude
    target_ratio: float | None = None
    max_drop: float | None = None
    only: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            UsageError: one is unknown, or they contradict each other.
        """
        lookup(dict.fromkeys(SCOPES), self.scope, "scope")
        fixed = parse(self.pattern).sparsity
        if self.method is not None:
            lookup(PRUNERS, self.method, "method")
        given = [x for x in (self.sparsity, self.target_ratio, self.max_drop) if x is not None]
        if fixed is not None and given:
            raise UsageError(f"--pattern {self.pattern} says how many weights go; give only that")
        if fixed is None and len(given) != 1:
            raise UsageError("give one of --sparsity, --target-ratio and --max-drop")
        if self.sparsity is not None and not 0 <= self.sparsity < 1:
            raise UsageError(f"--sparsity {self.sparsity:g} is not in 0..1, 1 excluded")
        if self.target_ratio is not None and not self.target_ratio > 1:
            raise UsageError(f"--target-ratio {self.target_ratio:g} is not above 1")
        if self.pattern == "channel" and self.sparsity is None:
            raise UsageError("--pattern channel goes with --sparsity")


def prune(
    model: Model,
    *,
    data: Any = None,
    threads: int | None = None,
    progress: Progress = untracked,
    **options: Any,
) -> Model:
    """Return the model with zeros for weights, as `options` (fields of Options) say.

    Biases and depthwise weights stay. scope global, target_ratio and max_drop give each layer its
    own sparsity: the knapsack over what each would cost; data (samples) measures how much the
    layers matter, and max_drop evaluates on it. pattern channel removes channels for good.

    Raises:
        UsageError: an option is unknown or contradicts another.
        UnsupportedError: there is nothing to prune, or not in this form.
    """
    chosen = Options(**options)
    if chosen.max_drop is not None and data is None:
        raise UsageError("--max-drop evaluates: give --data")
    step = {**changed(chosen), **drawn(data)}
    if chosen.pattern == "channel":
        result = prune_channels(
            model, chosen.sparsity or 0.0, chosen.only, chosen.exclude, chosen.method,
            chosen.scope, some(data), threads or 1, progress,
        )  # fmt: skip
    else:
        work = Pruning(model, prunable(model, chosen), chosen, threads or 1, step)
        result = work.best(data, progress)
    check_runs(result)
    return result.then("prune", step)


def prunable(model: Model, options: Options) -> list[WeightLayer]:
    """Return the layers that are pruned.

    Raises:
        UnsupportedError: there is none, or the weights are integers already.
    """
    found = weight_layers(model, options.only, options.exclude, min_size=MIN_SIZE)
    if any(layer.integer is not None for layer in found):
        raise UnsupportedError("the weights are integers: prune the float model, then quantize it")
    dense = [layer for layer in found if not layer.depthwise]
    if not dense:
        raise UnsupportedError(
            f"no constant weight of {MIN_SIZE} elements or more can be pruned; "
            "depthwise ones stay as they are"
        )
    return dense


def method_for(layers: Sequence[WeightLayer], wanted: str | None) -> str:
    """Return the method to use; say when statistics are missing."""
    known = sum(layer.has_gram for layer in layers)
    if wanted in (None, "obs", "wanda") and known < len(layers):
        log.info(
            "%d of %d layers have no Gram statistics (qtool calibrate --gram): their smallest "
            "weights go (magnitude)",
            len(layers) - known, len(layers),
        )  # fmt: skip
    return wanted or ("obs" if known else "magnitude")


class Pruning:
    """One pruning of a model, tried at different budgets."""

    def __init__(
        self,
        model: Model,
        layers: Sequence[WeightLayer],
        options: Options,
        threads: int,
        step: Mapping[str, Any],
    ) -> None:
        """Take what stays the same for all budgets; step is what the history will say."""
        self._step = step
        self._model, self._layers, self._options = model, layers, options
        self._prune = PRUNERS[method_for(layers, options.method)]
        pattern = parse(options.pattern)
        self._patterns = [replace(pattern, taps=layer.taps) for layer in layers]
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="qtool-prune")
        self._threads = threads
        self._done: dict[tuple[str, float], npt.NDArray[np.float64]] = {}

    def best(self, data: Any, progress: Progress = untracked) -> Model:
        """Return the model that the options ask for."""
        options = self._options
        fixed = self._patterns[0].sparsity
        if fixed is not None or (options.scope == "layer" and options.sparsity is not None):
            uniform = fixed if fixed is not None else options.sparsity
            return self.made([uniform or 0.0] * len(self._layers), progress)
        database = self.database(data, progress)
        if options.sparsity is not None:
            weights = sum(layer.size for layer in self._layers)
            counted = [
                [replace(e, size=layer.size * (1 - e.value)) for e in entries]
                for layer, entries in zip(self._layers, database, strict=True)
            ]
            picked = choose(counted, weights * (1 - options.sparsity))
            return self.made([entry.value for entry in picked], progress)
        if options.target_ratio is not None:
            return self._to_size(database, float_bytes(self._model) / options.target_ratio)
        return self._to_drop(database, options.max_drop or 0.0, data)

    def database(self, data: Any, progress: Progress = untracked) -> list[list[Entry]]:
        """Return for each layer and sparsity the size and the cost at the outputs."""
        usable = data is not None and hasattr(data, "__getitem__") and len(data) > 0
        sensitivity = (
            by_probes(self._model, self._layers, data, progress)
            if usable else by_variance(self._layers)
        )  # fmt: skip
        indices = range(len(self._layers))
        found = list(self._pool.map(self._entries, indices))
        tracked = progress(zip(self._layers, found, strict=True), "measuring", len(found))
        return [
            [replace(e, cost=e.cost * sensitivity[layer.name]) for e in entries]
            for layer, entries in tracked
        ]

    def _entries(self, index: int) -> list[Entry]:
        layer = self._layers[index]
        found = []
        for sparsity in SPARSITIES:
            rows = self._pruned(index, sparsity)
            error = float(output_error(layer.rows, rows, layer.hessian.regular).sum())
            found.append(Entry(sparsity, _bits(layer.size, float(np.mean(rows == 0))), error))
        return found

    def _pruned(self, index: int, sparsity: float) -> npt.NDArray[np.float64]:
        layer = self._layers[index]
        key = layer.name, sparsity
        if key not in self._done:
            rows, pattern = layer.rows, self._patterns[index]
            zero = sparsity == 0 and pattern.sparsity is None
            pruner = self._prune if layer.has_gram else PRUNERS["magnitude"]
            done = rows if zero else pruner(rows, layer.hessian, pattern, sparsity)
            self._done[key] = done
        return self._done[key]

    def made(self, sparsities: Sequence[float], progress: Progress = untracked) -> Model:
        """Return the model with these sparsities of its layers."""
        indices = range(len(self._layers))
        rows = self._pool.map(self._pruned, indices, sparsities)
        result = self._model.copy()
        edit, wanted = Edit(result), {layer.name: i for i, layer in enumerate(self._layers)}
        copies = {x.name: x for x in weight_layers(result, min_size=MIN_SIZE) if x.name in wanted}
        tracked = progress(zip(self._layers, rows, strict=True), "pruning", len(self._layers))
        for layer, pruned in tracked:
            copy = copies[layer.name]
            copy.hessian = layer.hessian
            edit.bias(copy, layer.rows - pruned)
            edit.floats(copy, pruned)
        return result

    def _at(self, database: list[list[Entry]], size: float) -> Model:
        return self.made([entry.value for entry in choose(database, size)])

    def _to_size(self, database: list[list[Entry]], wanted: float) -> Model:
        """Return the model whose packed file has just under `wanted` bytes."""
        made: dict[float, Model] = {}
        sizes: dict[float, int] = {}

        def size(x: float) -> float:
            made[x] = self._at(database, 2**x)
            bare = replace(made[x], statistics=None).then("prune", self._step)
            sizes[x] = packed_size(bare, threads=self._threads)
            return float(sizes[x])

        start = float(np.log2(wanted * 8))
        found = solve(size, wanted, start, slope=wanted * 0.7, tolerance=TOLERANCE)
        check_size(sizes[found], wanted)
        return made[found]

    def _to_drop(self, database: list[list[Entry]], most: float, data: Any) -> Model:
        """Return the smallest model found whose metric drops by at most `most`: bisection."""
        full = float(sum(max(e.size for e in entries) for entries in database))
        least = float(sum(min(e.size for e in entries) for entries in database))
        low, high, best = np.log2(least), np.log2(full), self._model.copy()
        for _ in range(EVALUATIONS):
            middle = (low + high) / 2
            candidate = self._at(database, 2**middle)
            report = evaluate(candidate, data=data, reference=self._model, threads=self._threads)
            drop = 0.0 if report.drop is None else report.drop
            log.info("%.0f %% of the size: drop %.2f", 100 * 2**middle / full, drop)
            if drop <= most:
                best, high = candidate, middle
            else:
                low = middle
        return best


def _bits(size: int, zeros: float) -> float:
    """Return the bits of a tensor with this share of zeros, packed."""
    p = min(max(zeros, 1e-9), 1 - 1e-9)
    entropy = -(p * np.log2(p) + (1 - p) * np.log2(1 - p))
    return float(size * (entropy + (1 - p) * FLOAT_BITS))
