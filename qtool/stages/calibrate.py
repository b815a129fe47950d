"""calibrate: runs sample data and adds the statistics of tensors."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import onnx_ir as ir

from qtool.errors import DataError, QtoolError, UsageError
from qtool.model import Model, Statistics, all_nodes, fingerprint
from qtool.quant.plan import observed
from qtool.runtime.ort import Array, OrtSession
from qtool.runtime.sweep import Sample, sweep
from qtool.shapes import infer_shapes
from qtool.statistics.histogram import Histogram

log = logging.getLogger("qtool")

FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE)
Progress = Callable[[Iterable[Any], str, "int | None"], Iterable[Any]]
Observers = Mapping[str, Sequence[Any]]  # tensor name -> what its values update


def untracked(items: Iterable[Any], label: str, total: int | None) -> Iterable[Any]:
    """Return the items: the progress of a library call is not shown."""
    return items


def calibrate(
    model: Model,
    *,
    data: Any,
    threads: int | None = None,
    batch: int = 1,
    shard: tuple[int, int] | None = None,
    tensors: Sequence[str] | None = None,
    progress: Progress = untracked,
) -> Model:
    """Return the model with the statistics of its tensors on the data (Samples).

    The statistics depend only on the model and on which samples there are: not on their order,
    threads, or batch (how many a thread takes at once; each is run alone). shard (2, 8) takes
    samples 1, 9, 17, ... counted from 0; `merge` joins the parts. tensors are globs over tensor
    names; by default the tensors are those whose ranges static quantization needs.

    Raises:
        UsageError: a pattern matches no tensor, or shard is no part.
        DataError: a tensor has a value that is not finite, or there are no samples.
        QtoolError: the model cannot be run on a sample.
    """
    check_shard(shard)
    annotated = infer_shapes(model)
    histograms = {name: Histogram() for name in _chosen(annotated, tensors)}
    _mention_subgraphs(model)
    n_samples = _run(model, {name: [h] for name, h in histograms.items()}, data=data,
                     threads=threads or _cores(), batch=batch, shard=shard, progress=progress)  # fmt: skip
    statistics = Statistics(
        model=fingerprint(model),
        source=getattr(data, "source", "samples"),
        n_samples=n_samples,
        shards=() if shard is None else (f"{shard[0]}/{shard[1]}",),
        tensors={name: histogram.finish() for name, histogram in histograms.items()},
    )
    options = {"samples": n_samples, "source": statistics.source}
    if tensors is not None:
        options["tensors"] = list(tensors)
    if shard is not None:
        options["shard"] = statistics.shards[0]
    preprocess = getattr(data, "preprocess", None) or model.preprocess
    return model.then("calibrate", options, statistics=statistics, preprocess=preprocess)


def check_shard(shard: tuple[int, int] | None) -> None:
    """Check that shard (i, n) is part i of n, counted from 1.

    Raises:
        UsageError: it is not.
    """
    if shard is not None and not 1 <= shard[0] <= shard[1]:
        raise UsageError(f"there is no shard {shard[0]}/{shard[1]}; the first of 8 is 1/8")


def _run(
    model: Model,
    observers: Observers,
    *,
    data: Any,
    threads: int,
    batch: int,
    shard: tuple[int, int] | None,
    progress: Progress,
) -> int:
    """Let the observers of every tensor see its values on the samples; return how many those are."""
    inputs = {value.name for value in model.graph.inputs}
    session = OrtSession(model, outputs=[name for name in observers if name not in inputs] or None)
    n_seen: list[int] = []

    def see(sample: Sample, outputs: Mapping[str, Array]) -> None:
        for name, updated in observers.items():
            _show(sample, name, outputs.get(name, sample.feeds.get(name)), updated)
        n_seen.append(getattr(sample, "n", 1))

    loads, total = _part(data, shard)
    sweep(session, progress(loads, "calibrating", total), see, threads=threads, batch=batch)
    if not n_seen:
        part = "" if shard is None else f" in shard {shard[0]}/{shard[1]}; use fewer shards"
        raise DataError(f"there are no samples{part}")
    return sum(n_seen)


def _show(sample: Sample, name: str, values: Array | None, observers: Sequence[Any]) -> None:
    if values is None or values.dtype.kind != "f":
        return
    try:
        for observer in observers:
            observer.update(values)
    except DataError as error:
        raise DataError(f"{sample.where}: tensor {name!r}: {error}") from error


def _part(
    data: Any, shard: tuple[int, int] | None
) -> tuple[Iterator[Callable[[], Sample]], int | None]:
    """Return functions that load the samples of a shard, and how many they are when known."""
    index, n = (0, 1) if shard is None else (shard[0] - 1, shard[1])
    if getattr(data, "n", None) is None and not isinstance(data, Sequence):
        return (partial(_same, s) for i, s in enumerate(data) if i % n == index), None
    indices = range(index, len(data), n)
    return (partial(data.__getitem__, i) for i in indices), len(indices)


def _same(sample: Sample) -> Sample:
    return sample


def _chosen(model: Model, patterns: Sequence[str] | None) -> list[str]:
    """Return the names of the tensors to observe.

    Raises:
        UsageError: a pattern matches none.
    """
    floats = [v.name or "" for v in _values(model) if v.dtype is None or v.dtype in FLOATS]
    if patterns is None:
        wanted = set(observed(model))
        names = [name for name in floats if name in wanted]
        if not names:
            log.info("no tensor here needs a range; observing all %d float tensors", len(floats))
        return names or floats
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in floats):
            raise UsageError(f"no float tensor matches {pattern!r}; see qtool inspect")
    return [name for name in floats if any(fnmatchcase(name, p) for p in patterns)]


def _values(model: Model) -> Iterator[ir.Value]:
    """Yield what the main graph computes or is fed, without what is optional and absent."""
    initializers = model.graph.initializers
    yield from (v for v in model.graph.inputs if v.name not in initializers)
    for node in model.graph:
        if node.op_type != "Constant":
            yield from (v for v in node.outputs if v.name)


def _mention_subgraphs(model: Model) -> None:
    n = sum(len(node.outputs) for node in all_nodes(model) if node.graph is not model.graph)
    if n:
        log.info("%d tensors inside subgraphs (If, Loop, Scan) are not observed", n)


def _cores() -> int:
    with suppress(AttributeError):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
