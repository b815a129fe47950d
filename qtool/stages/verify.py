"""verify: does the native runtime compute what onnxruntime does, and how far is that from float?"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy.typing as npt

from qtool.data import Sample, Samples
from qtool.errors import QtoolError, UsageError
from qtool.model import Model
from qtool.quant.twins import aligned
from qtool.runtime import RUNTIMES, Runner
from qtool.runtime.sweep import sweep
from qtool.shapes import shapes, size
from qtool.stages._layer_sums import Sums, compared
from qtool.stages._layers import Layer, layers_of
from qtool.stages._scoring import rows_of
from qtool.stages._verification import (
    Verification,
    failures,
    layer_reports,
    most_lost,
)
from qtool.stages._verify_outputs import Seen, output_reports, seen
from qtool.stages.evaluate import available_cores, loads_of

Array = npt.NDArray[Any]
Progress = Callable[[Iterable[Any], str, int | None], Iterable[Any]]

WINDOW_BYTES = 256 << 20  # of layers held at a time, in all threads
BYTES_PER_ELEMENT = 4 + 2 * 4  # float, and at most as much for each runtime
GUESS = 64  # elements of a dim that only the data tells


@dataclass(frozen=True)
class _Trio:
    """The three sessions of one window; layers in the window."""

    native: Runner
    onnxruntime: Runner
    reference: Runner | None
    layers: Sequence[Layer]
    float_names: Mapping[str, str]  # layer -> tensor of the reference


def verify(
    model: Model,
    *,
    data: Samples,
    reference: Model | None = None,
    min_sqnr: float | None = None,
    max_lsb: int | None = None,
    min_agreement: float | None = None,
    threads: int | None = None,
    window_bytes: int = WINDOW_BYTES,
    progress: Progress = lambda items, _l, _t: items,
) -> Verification:
    """Return how the native runtime compares with onnxruntime on model, and both with reference.

    reference is the float model; its tensors are matched by name. Layers are looked at in windows
    of about window_bytes, each in a run of its own over the samples, and the outputs in one run of
    the models as they are. min_sqnr (dB) and min_agreement (percent) are against the reference,
    max_lsb against onnxruntime. The result does not depend on threads.

    Raises:
        UnsupportedError: the native runtime cannot run the model.
        UsageError: a threshold needs a reference.
    """
    check_request(min_sqnr, min_agreement, reference is not None)
    start, threads = time.perf_counter(), threads or available_cores()
    reference = None if reference is None else aligned(reference, model)
    trio = _trio(model, reference, None, {})
    samples, found_outputs = _outputs(trio, data, threads, progress)
    outputs = output_reports(model, found_outputs)
    layers = layers_of(model)
    names = {} if reference is None else float_names(layers, reference)
    windows = windows_of(layers, model, window_bytes // (threads * data.batch))
    sums: dict[str, Sums] = {}
    for number, window in enumerate(windows, 1):
        trio = _trio(model, reference, window, names)
        label = f"layers, window {number} of {len(windows)}"
        sums |= _window(trio, data, threads, progress, label)
    found = layer_reports(layers, sums)
    sqnrs = [o.sqnr for o in outputs if o.sqnr is not None]
    agreements = [o.agreement for o in outputs if o.agreement is not None]
    report = Verification(
        samples=samples,
        layers=found,
        outputs=outputs,
        sqnr=min(sqnrs, default=None),
        agreement=min(agreements, default=None),
        max_lsb=max((layer.max_lsb or 0 for layer in found), default=0),
        first_difference=next((layer.name for layer in found if layer.exact < 1), None),
        most_lost=most_lost(found),
        windows=len(windows),
    )
    missed = failures(report, min_sqnr, max_lsb, min_agreement)
    asked = (min_sqnr, max_lsb, min_agreement) != (None, None, None)
    seconds = round(time.perf_counter() - start, 3)
    return replace(report, seconds=seconds, passed=not missed if asked else None, failures=missed)


def check_request(min_sqnr: float | None, min_agreement: float | None, reference: bool) -> None:
    """Raise UsageError where a threshold against float lacks the float model."""
    for option, value in (("--min-sqnr", min_sqnr), ("--min-agreement", min_agreement)):
        if value is not None and not reference:
            raise UsageError(f"{option} is against the float model: give it with --reference")


def _trio(
    model: Model, reference: Model | None, layers: Sequence[Layer] | None, names: Mapping[str, str]
) -> _Trio:
    """Return the sessions for these layers, or for the outputs of the models as they are."""
    fetched = None if layers is None else [layer.fetched for layer in layers]
    float_names = {layer.name: names[layer.name] for layer in layers or () if layer.name in names}
    inputs = {spec.name for spec in model.inputs()}
    wanted = None
    if layers is not None:
        wanted = [name for name in dict.fromkeys(float_names.values()) if name not in inputs]
    return _Trio(
        RUNTIMES["native"](model, outputs=fetched, threads=1),
        RUNTIMES["onnxruntime"](model, outputs=fetched, threads=1),
        None if reference is None or wanted == [] else
        RUNTIMES["onnxruntime"](reference, outputs=wanted, threads=1),
        layers or (),
        float_names,
    )  # fmt: skip


def float_names(layers: Iterable[Layer], reference: Model) -> dict[str, str]:
    """Return the reference's tensor of each layer that it has one for."""
    graph = reference.graph
    known = {v.name for v in graph.inputs} | {v.name for node in graph for v in node.outputs}
    matches = {layer.name: [n for n in layer.names if n in known] for layer in layers}
    return {name: found[0] for name, found in matches.items() if found}


def windows_of(layers: Sequence[Layer], model: Model, n_bytes: int) -> list[list[Layer]]:
    """Return the layers in groups that hold about n_bytes at a time."""
    known = shapes(model, assume=GUESS)
    windows: list[list[Layer]] = []
    left = 0
    for layer in layers:
        needed = BYTES_PER_ELEMENT * (size(known.get(layer.fetched)) or 0)
        if not windows or needed > left:
            windows.append([])
            left = n_bytes
        windows[-1].append(layer)
        left -= needed
    return windows


def _window(
    trio: _Trio, data: Samples, threads: int, progress: Progress, label: str
) -> dict[str, Sums]:
    """Return the sums over all samples, by layer."""
    found: dict[int, dict[str, Sums]] = {}

    def see(sample: Any, native: Mapping[str, Array]) -> None:
        theirs = trio.onnxruntime.run(sample.feeds)
        real = {} if trio.reference is None else trio.reference.run(sample.feeds)
        tensors = {**real, **sample.feeds}
        found[sample.index] = {
            layer.name: _compared(layer, native, theirs, tensors, trio.float_names, sample)
            for layer in trio.layers
        }

    _sweep(trio, data, see, threads, progress, label)
    total: dict[str, Sums] = {}
    for index in sorted(found):  # in this order whichever thread was first
        for name, sums in found[index].items():
            total[name] = total[name].plus(sums) if name in total else sums
    return total


def _compared(
    layer: Layer,
    native: Mapping[str, Array],
    theirs: Mapping[str, Array],
    tensors: Mapping[str, Array],
    float_names: Mapping[str, str],
    sample: Sample,
) -> Sums:
    mine, other = (rows_of(of[layer.fetched], sample) for of in (native, theirs))
    name = float_names.get(layer.name)
    real = None if name is None else rows_of(tensors[name], sample)
    if mine.shape != other.shape:
        raise QtoolError(
            f"{sample.where}: tensor {layer.name!r} has shape {mine.shape} in the native runtime "
            f"and {other.shape} in onnxruntime"
        )
    if real is not None and real.shape != mine.shape:
        real = None
    return compared(mine, other, real, layer.qparams)


def _sweep(
    trio: _Trio, data: Samples, see: Any, threads: int, progress: Progress, label: str
) -> None:
    loads, total = loads_of(data)
    try:
        sweep(trio.native, progress(loads, label, total), see, threads=threads)
    except BaseException:
        for session in (trio.onnxruntime, trio.reference):
            if session is not None:
                session.cancel()
        raise


def _outputs(
    trio: _Trio, data: Samples, threads: int, progress: Progress
) -> tuple[int, list[dict[str, Seen]]]:
    """Return the number of samples, and what the models as they are give for each feed."""
    found: dict[int, tuple[int, dict[str, Seen]]] = {}

    def see(sample: Any, native: Mapping[str, Array]) -> None:
        theirs = trio.onnxruntime.run(sample.feeds)
        real = None if trio.reference is None else trio.reference.run(sample.feeds)
        found[sample.index] = sample.n, seen(sample, native, theirs, real)

    _sweep(trio, data, see, threads, progress, "outputs")
    ordered = [found[index] for index in sorted(found)]
    return sum(n for n, _ in ordered), [of_outputs for _, of_outputs in ordered]
