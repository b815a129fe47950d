"""calibrate: runs sample data and adds the statistics of tensors."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from fnmatch import fnmatchcase
from functools import partial
from itertools import cycle, islice
from threading import Barrier
from typing import Any, NoReturn

import numpy as np
import onnx_ir as ir

from qtool.errors import DataError, QtoolError, UsageError
from qtool.model import GramStatistics, Model, Statistics, all_nodes, fingerprint
from qtool.quant.plan import observed
from qtool.runtime.memory import give_back, peak_bytes, resident_bytes, session_bytes
from qtool.runtime.ort import Array, OrtSession
from qtool.runtime.sweep import Sample, sweep
from qtool.shapes import infer_shapes
from qtool.stages._matching import matched
from qtool.stages._not_finite import weights_blamed
from qtool.statistics.budget import Pass, megabytes, plan_passes, spilled
from qtool.statistics.gram import FLOATS, Gram, Layer, gram_layers
from qtool.statistics.histogram import BYTES as HISTOGRAM_BYTES
from qtool.statistics.histogram import Histogram

log = logging.getLogger("qtool")

BATCH = 8  # samples that a thread takes at once
SETTLING_RUNS = 2
SPARE_BYTES = 32 << 20  # for what the memory of a process grows by beyond what is asked for
Progress = Callable[[Iterable[Any], str, "int | None"], Iterable[Any]]
WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul", "LSTM", "GRU", "RNN")
Observers = Mapping[str, Sequence[Histogram | Gram]]  # tensor name -> what its values update


def untracked(items: Iterable[Any], label: str, total: int | None) -> Iterable[Any]:
    """Return the items: nobody watches a library call."""
    return items


def calibrate(
    model: Model,
    *,
    data: Any,
    threads: int | None = None,
    batch: int = BATCH,
    shard: tuple[int, int] | None = None,
    tensors: Sequence[str] | None = None,
    gram: bool = False,
    memory: int | None = None,
    progress: Progress = untracked,
) -> Model:
    """Return the model with the statistics of its tensors on the data (Samples).

    The statistics depend only on the model and on which samples there are: not on their order,
    threads, or batch (how many a thread takes at once; each is run alone). shard (2, 8) takes
    samples 1, 9, 17, ... counted from 0; `merge` joins the parts. tensors are globs over tensor
    names; by default the tensors are those whose ranges static quantization needs. gram also
    sums the Gram matrix of each weighted layer's input, in as many passes over the data as keep
    the process under memory bytes. Made pictures (source "synthetic") are seen as layers with
    batch-norm statistics would have seen real ones.

    Raises:
        UsageError: a pattern matches no tensor, shard is no part, or memory is too little.
        DataError: a tensor has a value that is not finite, or there are no samples.
        QtoolError: the model cannot be run on a sample.
    """
    part = Part(data, shard)
    threads = threads or cores()
    annotated = infer_shapes(model)
    histograms = {name: Histogram() for name in _chosen(annotated, tensors)}
    layers = gram_layers(annotated) if gram else []
    base = _base_bytes(annotated, {*histograms, *(layer.tensor for layer in layers)}, threads)
    base += len(histograms) * HISTOGRAM_BYTES
    plan_passes([], threads=threads, base_bytes=base, memory=memory)  # refuses too little
    _mention_unobserved(model, layers if gram else None)

    # One session for all passes: what it has to return changes how onnxruntime fuses nodes.
    wanted = {*histograms, *(layer.tensor for layer in layers)} - {i.name for i in model.inputs()}
    runs = model
    if part.source == "synthetic":
        runs = matched(model, data=data, threads=threads, progress=progress)
    session = OrtSession(
        runs, outputs=sorted(wanted) or None, ordered=bool(layers), arena=memory is None
    )
    if layers and memory is not None and part.total is not None:
        base = _settled_bytes(session, part, threads) + len(histograms) * HISTOGRAM_BYTES
    passes = _planned(len(histograms), layers, threads, base, memory)
    grams: dict[str, GramStatistics] = {}
    for number, planned in enumerate(passes, 1):
        sums = {layer.what: Gram(layer) for layer in planned.layers}  # layers that agree share one
        label = "calibrating" if len(passes) == 1 else f"pass {number} of {len(passes)}"
        with weights_blamed(model):
            n_samples = _run(
                session, _observers(histograms if number == 1 else {}, sums.values()),
                progress(part, label, part.total), threads=threads, batch=batch,
            )  # fmt: skip
        grams |= _finished(planned.layers, sums, on_disk=len(passes) > 1)
        give_back()

    statistics = Statistics(
        model=fingerprint(model),
        source=part.source,
        n_samples=n_samples,
        shards=part.shards,
        tensors={name: histogram.finish() for name, histogram in histograms.items()},
        grams=grams,
    )
    given = {"tensors": list(tensors or ()), "gram": gram, "shard": "".join(part.shards)}
    given["whole"] = part.whole() if part.shards else ""
    options = {"samples": n_samples, "source": part.source}
    options |= {name: value for name, value in given.items() if value}
    preprocess = model.preprocess if part.preprocess is None else part.preprocess
    return model.then("calibrate", options, statistics=statistics, preprocess=preprocess)


class Part:
    """The samples of one shard; iterating yields a function that loads each."""

    def __init__(self, data: Any, shard: tuple[int, int] | None) -> None:
        """Take shard (i, n), part i of n counted from 1, or all for None.

        Raises:
            UsageError: there is no such part, or it has no samples.
        """
        if shard is not None and not 1 <= shard[0] <= shard[1]:
            raise UsageError(f"there is no shard {shard[0]}/{shard[1]}; the first of 8 is 1/8")
        self._data = data
        self._start, self._step = (0, 1) if shard is None else (shard[0] - 1, shard[1])
        self.shards = () if shard is None else (f"{shard[0]}/{shard[1]}",)
        self.source: str = getattr(data, "source", "samples")
        self.preprocess: Mapping[str, Any] | None = getattr(data, "preprocess", None)
        indexed = isinstance(data, Sequence) or getattr(data, "n", None) is not None
        self.total = len(range(self._start, len(data), self._step)) if indexed else None
        if self.total == 0:
            self.refuse()

    def __iter__(self) -> Iterator[Callable[[], Sample]]:
        if self.total is not None:
            for index in range(self._start, len(self._data), self._step):
                yield partial(self._data.__getitem__, index)
            return
        empty = True
        for sample in islice(self._data, self._start, None, self._step):
            empty = False
            yield partial(_same, sample)
        if empty:
            self.refuse()

    def whole(self) -> str:
        """Return a hash that the shards of one data set share: of its size and its two ends.

        "" where only iterating tells the size.
        """
        if self.total is None:
            return ""
        digest = hashlib.sha256(str(len(self._data)).encode())
        for sample in (self._data[0], self._data[len(self._data) - 1]):
            for name, values in sorted(sample.feeds.items()):
                digest.update(f"{name} {values.dtype} {values.shape}".encode())
                digest.update(np.ascontiguousarray(values).tobytes())
        return digest.hexdigest()[:16]

    def refuse(self) -> NoReturn:
        """Say that there is nothing to calibrate on."""
        hint = f" in shard {self.shards[0]}; use fewer shards" if self.shards else ""
        raise DataError(f"there are no samples{hint}")


def _same(sample: Sample) -> Sample:
    return sample


def _base_bytes(model: Model, outputs: Iterable[str], threads: int) -> int:
    return resident_bytes() + session_bytes(model, outputs, threads)


def _settled_bytes(session: OrtSession, part: Part, threads: int) -> int:
    """Return what this process took while all threads ran a sample, and some to spare.

    That tells more than a prediction: of activations inside onnxruntime, say, or of large images.
    """
    loads = list(islice(cycle(islice(part, threads)), threads))
    together = Barrier(threads)

    def run(sample: Sample) -> None:
        together.wait()
        with suppress(QtoolError):  # the pass will say which sample
            session.run(sample.feeds)

    with ThreadPoolExecutor(threads, thread_name_prefix="qtool-run") as pool:
        samples = list(pool.map(lambda load: load(), loads))
        for _ in range(SETTLING_RUNS):
            list(pool.map(run, samples))
    return peak_bytes() + SPARE_BYTES


def _planned(
    n_tensors: int, layers: Sequence[Layer], threads: int, base_bytes: int, memory: int | None
) -> list[Pass]:
    """Return the passes that the memory allows, and say what they will take."""
    passes = plan_passes(layers, threads=threads, base_bytes=base_bytes, memory=memory)
    peak = megabytes(max(planned.n_bytes for planned in passes))
    plural = "es" if len(passes) > 1 else ""
    grams = f" and {len(layers)} Gram matrices, {len(passes)} pass{plural}" if layers else ""
    log.info("observing %d tensors%s; predicted peak memory %s", n_tensors, grams, peak)
    return passes


def _observers(histograms: Mapping[str, Histogram], grams: Iterable[Gram]) -> Observers:
    found: dict[str, list[Histogram | Gram]] = {name: [one] for name, one in histograms.items()}
    for one in grams:
        found.setdefault(one.layer.tensor, []).append(one)
    return found


def _run(
    session: OrtSession,
    observers: Observers,
    samples: Iterable[Callable[[], Sample]],
    *,
    threads: int,
    batch: int,
) -> int:
    """Let the observers of each tensor see its values; return how many samples there were."""
    needed = session.only([name for name in session.output_names if name in observers])
    counts: list[int] = []

    def see(sample: Sample, tensors: Mapping[str, Array]) -> None:
        for name, values in tensors.items():
            if name in observers and _floats(values):
                _show(sample, name, values, observers[name])
        if tensors is sample.feeds:
            counts.append(getattr(sample, "n", 1))

    sweep(needed, samples, see, threads=threads, batch=batch, before=see)
    return sum(counts)


def _floats(values: Any) -> bool:  # a sequence is a list
    return getattr(getattr(values, "dtype", None), "kind", "") == "f"


def _show(sample: Sample, name: str, values: Array, observers: Sequence[Histogram | Gram]) -> None:
    try:
        for observer in observers:
            observer.update(values)
    except DataError as error:
        raise DataError(f"{sample.where}: tensor {name!r}: {error}") from error


def _finished(
    layers: Sequence[Layer], sums: dict[tuple[object, ...], Gram], *, on_disk: bool
) -> dict[str, GramStatistics]:
    """Return the matrices by the names of the layers; each sum is dropped when it is done."""
    done = {}
    for what in list(sums):
        finished = sums.pop(what).finish()
        done[what] = spilled(finished) if on_disk else finished
    return {layer.name: done[layer.what] for layer in layers}


def _chosen(model: Model, patterns: Sequence[str] | None) -> list[str]:
    """Return the names of the tensors to observe.

    Raises:
        UsageError: a pattern matches none.
    """
    floats = [v.name or "" for v in _values(model) if v.dtype in FLOATS]
    if patterns is None:
        wanted = set(observed(model))
        names = [name for name in floats if name in wanted]
        if not names:
            log.info("no tensor needs a range; observing all %d float tensors", len(floats))
        return names or floats
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in floats):
            raise UsageError(f"no float tensor matches {pattern!r}; `qtool inspect` lists them")
    return [name for name in floats if any(fnmatchcase(name, p) for p in patterns)]


def _values(model: Model) -> Iterator[ir.Value]:
    """Yield what the main graph is fed and what it computes."""
    initializers = model.graph.initializers
    yield from (v for v in model.graph.inputs if v.name not in initializers)
    for node in model.graph:
        if node.op_type != "Constant":
            yield from (v for v in node.outputs if v.name)


def _mention_unobserved(model: Model, layers: Sequence[Layer] | None) -> None:
    """Say once what there are no statistics of."""
    inner = [node for node in all_nodes(model) if node.graph is not model.graph]
    if inner:
        n = sum(len(node.outputs) for node in inner)
        log.info("%d tensors inside subgraphs (If, Loop, Scan) are not observed", n)
    if layers is not None:
        named = {layer.name for layer in layers}
        weighted = [n for n in all_nodes(model) if n.op_type in WEIGHTED]
        left = [n for n in weighted if n.outputs[0].name not in named]
        for node in left:
            log.debug("no Gram matrix for %s (%s)", node.outputs[0].name, node.op_type)
        if left:
            log.info("without a Gram matrix: %d weighted nodes, which -v names", len(left))


def cores() -> int:
    """Return how many threads can run at once."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
