"""report: everything that a page about a quantized model says, as numbers."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from qtool.data import Samples
from qtool.errors import QtoolError, UsageError
from qtool.model import Json, Model, TensorStatistics
from qtool.quant.coverage import Coverage
from qtool.quant.twins import aligned
from qtool.runtime import RUNTIMES
from qtool.stages._evaluation import Report as Evaluation
from qtool.stages._evaluation import make_report
from qtool.stages._report_layers import Row, kind_of, rows_of
from qtool.stages._report_pictures import Picture, pictures
from qtool.stages._report_samples import Seen, look, worst
from qtool.stages._report_tensors import Activation, activation, measure
from qtool.stages._report_weights import Weight, stored_bytes
from qtool.stages._verification import LayerReport
from qtool.stages.evaluate import available_cores, task_for
from qtool.stages.inspect import Inspection, constants, inspect

Progress = Callable[[Iterable[Any], str, int | None], Iterable[Any]]
log = logging.getLogger("qtool")
LAYER_SAMPLES = 32
WORST = 12


@dataclass(frozen=True)
class LayerFacts:
    """One row of the layer table, with all that is known of it; sources are numbers of rows."""

    number: int
    name: str
    op: str
    tensor: str
    form: str
    reason: str
    shape: tuple[int | str | None, ...] | None
    macs: int | None
    n_bytes: int
    float_bytes: int
    stored: Mapping[str, int]  # kind, such as "int8" or "int8 huffman" -> bytes
    weights: tuple[Weight, ...]
    activation: Activation | None
    error: LayerReport | None
    sources: tuple[int, ...]


@dataclass(frozen=True)
class WorstSample:
    """A sample that quantization changed much, and what it looks like."""

    seen: Seen
    picture: Picture | None


@dataclass(frozen=True)
class ModelReport:
    """What is known of a model: alone, against a reference, and on data.

    stored: the bytes of all constants by kind. samples: how many were evaluated, of which
    layer_samples gave the layers' errors and histograms. kinds: how many samples are of each of
    KINDS. notes: what could not be said, and why.
    """

    inspection: Inspection
    reference: Inspection | None
    layers: tuple[LayerFacts, ...]
    stored: Mapping[str, int]
    evaluation: Evaluation | None
    data_source: str | None
    samples: int
    layer_samples: int
    labelled: bool
    kinds: Mapping[str, int]
    both_right: int | None
    worst: tuple[WorstSample, ...]
    notes: tuple[str, ...]

    @property
    def coverage(self) -> Coverage:
        """What of the model computes in integers."""
        return self.inspection.coverage

    def to_json(self) -> dict[str, Json]:
        """Return the report as a JSON object, without the pictures."""
        evaluation = None if self.evaluation is None else self.evaluation.to_json()
        if evaluation is not None:
            del evaluation["seconds"], evaluation["passed"], evaluation["reason"]
        found: dict[str, Json] = {
            "samples": self.samples,
            "layer_samples": self.layer_samples,
            "data_source": self.data_source,
            "evaluation": evaluation,
            "kinds": dict(self.kinds),
            "both_right": self.both_right,
            "stored": dict(self.stored),
            "coverage": self.coverage.to_json(),
            "layers": [asdict(replace(layer, stored=dict(layer.stored))) for layer in self.layers],
            "worst": [asdict(one.seen) for one in self.worst],
            "history": [dict(step) for step in self.inspection.history],
            "preprocess": self.inspection.preprocess,
            "notes": list(self.notes),
        }
        return found


def report(
    model: Model,
    *,
    reference: Model | None = None,
    data: Samples | None = None,
    metric: str | None = None,
    target: str | None = None,
    output: str | None = None,
    layer_samples: int = LAYER_SAMPLES,
    n_worst: int = WORST,
    threads: int | None = None,
    progress: Progress = lambda items, _l, _t: items,
) -> ModelReport:
    """Return all that is known of a model; what reference and data add is left out without them.

    metric, target and output are as in evaluate. The first layer_samples samples give the error
    and the histogram of each layer; n_worst samples are looked at one by one. The result does not
    depend on threads.

    Raises:
        UsageError, DataError: as evaluate does.
    """
    if n_worst < 0 or layer_samples < 0:
        raise UsageError("numbers of samples cannot be negative")
    threads = threads or available_cores()
    notes: list[str] = []
    rows = rows_of(model, reference)
    errors: dict[str, LayerReport] = {}
    seen: dict[str, TensorStatistics] = {}
    used = 0
    samples = _Samples(None, (), (), None)
    if data is not None:
        samples = _evaluated(
            model, reference, data, notes, metric=metric, target=target, output=output,
            n_worst=n_worst, threads=threads, progress=progress,
        )  # fmt: skip
        used = layer_samples if data.n is None else min(layer_samples, data.n)
    if data is not None and reference is not None and layer_samples:
        layers = [row.layer for row in rows if row.layer is not None]
        same = aligned(reference, model)
        feeds = -(-layer_samples // data.batch)
        errors, seen = measure(
            model, same, layers, data, n_samples=feeds, threads=threads, progress=progress
        )
        if 2 * len(errors) < len(layers):
            notes.append(
                f"Only {len(errors)} of {len(layers)} layers have a tensor of the same name in the "
                "reference: is it the model that this one was made from?"
            )
            log.warning("%s", notes[-1])
    calibrated = _calibration(model, reference)
    labelled = any(one.label is not None for one in samples.seen)
    return ModelReport(
        inspection=inspect(model),
        reference=None if reference is None else inspect(reference),
        layers=tuple(_facts(row, errors, seen, calibrated) for row in rows),
        stored=_totals(model),
        evaluation=samples.evaluation,
        data_source=None if data is None else data.source,
        samples=len(samples.seen),
        layer_samples=used if errors else 0,
        labelled=labelled,
        kinds=dict(sorted(Counter(s.kind for s in samples.seen if s.kind is not None).items())),
        both_right=_both_right(samples.seen) if labelled and reference is not None else None,
        worst=samples.worst,
        notes=(*notes, *_missing(reference, data)),
    )


@dataclass(frozen=True)
class _Samples:
    evaluation: Evaluation | None
    seen: Sequence[Seen]
    worst: tuple[WorstSample, ...]
    preprocess: Mapping[str, Json] | None


def _evaluated(
    model: Model,
    reference: Model | None,
    data: Samples,
    notes: list[str],
    *,
    metric: str | None,
    target: str | None,
    output: str | None,
    n_worst: int,
    threads: int,
    progress: Progress,
) -> _Samples:
    """Return how the models do on the data, and the samples that quantization changed most."""
    first = data[0] if data.n is not None else next(iter(data))
    if reference is None and first.label is None and metric is None and target is None:
        notes.append(
            "The samples have no labels and there is no reference: nothing to compare with."
        )
        return _Samples(None, (), (), None)
    sessions = [RUNTIMES["onnxruntime"](model, threads=1)]
    if reference is not None:
        sessions.append(RUNTIMES["onnxruntime"](reference, threads=1))
    try:
        task = task_for(data, sessions, metric, target, output)
    except QtoolError as error:
        if reference is None or first.label is None or metric or target:
            raise
        log.warning("labels are not used: %s", error)
        notes.append(f"The labels are not used: {error}.")
        task = task_for(data, sessions, "sqnr", None, output)
    scores, seen = look(task, sessions, data, threads=threads, progress=progress)
    chosen = worst(seen, n_worst) if reference is not None else []
    shown = pictures(data, chosen, data.preprocess)
    return _Samples(
        make_report(task, scores, "onnxruntime"),
        seen,
        tuple(map(WorstSample, chosen, shown)),
        data.preprocess,
    )


def _calibration(model: Model, reference: Model | None) -> Mapping[str, TensorStatistics]:
    """Return the statistics that the model carries, else the reference's."""
    for one in (model, reference):
        if one is not None and one.statistics is not None:
            return one.statistics.tensors
    return {}


def _facts(
    row: Row,
    errors: Mapping[str, LayerReport],
    seen: Mapping[str, TensorStatistics],
    calibrated: Mapping[str, TensorStatistics],
) -> LayerFacts:
    layer = row.layer
    stored: Counter[str] = Counter()
    for one in row.stored:
        stored[one.kind] += one.n_bytes
    names = () if layer is None else layer.names
    known = next((calibrated[name] for name in names if name in calibrated), None)
    return LayerFacts(
        number=row.number,
        name=row.name,
        op=row.op,
        tensor=row.tensor,
        form=row.form,
        reason=row.reason,
        shape=row.shape,
        macs=row.macs,
        n_bytes=row.n_bytes,
        float_bytes=row.float_bytes,
        stored=dict(sorted(stored.items())),
        weights=tuple(row.weights),
        activation=None
        if layer is None
        else activation(layer.qparams, seen.get(layer.name), known),
        error=None if layer is None else errors.get(layer.name),
        sources=row.sources,
    )


def _totals(model: Model) -> dict[str, int]:
    """Return the bytes of all constants by how they are stored, the most first."""
    sums: Counter[str] = Counter()
    for _, tensor, _ in constants(model):
        sums[kind_of(tensor)] += stored_bytes(tensor)
    return dict(sorted(sums.items(), key=lambda item: (-item[1], item[0])))


def _both_right(seen: Sequence[Seen]) -> int:
    return sum(s.label is not None and s.label == s.guess == s.reference_guess for s in seen)


def _missing(reference: Model | None, data: Samples | None) -> list[str]:
    notes = []
    if reference is None:
        notes.append("Give --reference, the float model, to see what quantization costs.")
    if data is None:
        notes.append("Give --data to see accuracy, errors of layers, and worst samples.")
    return notes
