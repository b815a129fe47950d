"""sensitivity: which layers lose precision when quantized, why, and what to do about it."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from qtool.data import Samples
from qtool.data.held import Held, hold
from qtool.errors import UnsupportedError, UsageError
from qtool.model import Json, Model, Statistics, fingerprint
from qtool.quant.coverage import coverage
from qtool.quant.pairs import Pair, pairs
from qtool.quant.twins import aligned
from qtool.stages._causes import Cause, cause_of
from qtool.stages._json import finite
from qtool.stages._measure import Measured, measure_alone, measure_together
from qtool.stages._noise import Noise, cumulative, noise_of
from qtool.stages.calibrate import calibrate, untracked
from qtool.stages.evaluate import available_cores, common_inputs
from qtool.stages.quantize import quantize

log = logging.getLogger("qtool")

MOST_SAMPLES = 32  # that layers are measured on: SQNR is steady on few
HALF = 0.5  # of the noise at the outputs: what the layers of the exclude file make up
Progress = Callable[[Iterable[Any], str, "int | None"], Iterable[Any]]


@dataclass(frozen=True)
class LayerSensitivity:
    """What quantizing one layer costs. SQNRs in dB; None where they cannot be told.

    sqnr and cumulative are predicted from statistics at the layer's output, with only this layer
    quantized and with all before it; measured_* are of samples, measured_outputs at the model's
    outputs with only this layer quantized. share: of the noise that all layers make, each alone.
    parts: shares of the layer's predicted noise.
    """

    name: str
    op: str
    tensor: str
    types: str
    sqnr: float | None
    cumulative: float | None
    measured_sqnr: float | None
    measured_outputs: float | None
    measured_cumulative: float | None
    saturated: float | None
    share: float
    parts: Mapping[str, float]
    cause: str
    facts: str
    remedy: str


@dataclass(frozen=True)
class Sensitivity:
    """The layers in running order. unmatched: quantized nodes that the float model lacks."""

    layers: tuple[LayerSensitivity, ...]
    unmatched: tuple[str, ...]
    samples: int
    exact: bool  # the prediction had Gram matrices

    @property
    def ranked(self) -> list[LayerSensitivity]:
        """The layers, the noisiest first."""
        return sorted(self.layers, key=lambda layer: -layer.share)

    def worst(self, share: float = HALF) -> list[LayerSensitivity]:
        """Return the fewest weighted layers that make this share of all noise."""
        found: list[LayerSensitivity] = []
        total = 0.0
        for layer in self.ranked:
            if total >= share or not layer.share:
                break
            total += layer.share
            found.append(layer)
        return found

    def exclude_file(self) -> str:
        """Return the lines that `quantize --exclude-from` takes: the worst layers, with reasons."""
        lines = ["# the layers that make half of the quantization noise, the noisiest first"]
        for layer in self.worst():
            why = f", {layer.cause}" if layer.cause else ""
            lines += [f"# {100 * layer.share:.1f} % of the noise{why}", layer.name]
        return "\n".join(lines) + "\n"

    def to_json(self) -> dict[str, Json]:
        """Return the sensitivity as a JSON object; what is not a finite number is null."""
        return {
            "samples": self.samples,
            "exact": self.exact,
            "unmatched": list(self.unmatched),
            "layers": [finite(asdict(layer)) for layer in self.layers],
            "worst": [layer.name for layer in self.worst()],
        }


def sensitivity(
    model: Model,
    *,
    reference: Model | None = None,
    data: Samples | None = None,
    threads: int | None = None,
    progress: Progress = untracked,
    **options: Any,
) -> Sensitivity:
    """Return what each quantized layer loses against the float model.

    model is a quantized model, with the float one as reference; or a calibrated float model, which
    is quantized with the options of `quantize`. The prediction takes the statistics of the float
    model, or makes some of the data; with data there are measured figures too. At most
    MOST_SAMPLES samples are used. The result does not depend on threads.

    Raises:
        UsageError: the reference is missing, or there are neither statistics nor data.
        DataError: model and reference take different inputs.
        UnsupportedError: no layer of the model can be paired with one of the reference.
    """
    held = None if data is None else hold(data, MOST_SAMPLES)
    threads = threads or available_cores()
    quantized, known = _both(model, reference, held, threads, options)
    return _sensitivity(quantized, known, held, threads, progress)


def _both(
    model: Model, reference: Model | None, held: Held | None, threads: int, options: Any
) -> tuple[Model, Model]:
    """Return the quantized model, and the float one with statistics where there are any."""
    if coverage(model).is_quantized:
        if reference is None:
            raise UsageError("the model is quantized: give the float one with --reference")
        reference = aligned(reference, model, fold=True)
        _paired(model, reference)  # before anything is run
        common_inputs(model, reference)
        known = reference
        if held is None and known.statistics is None and _is_of(model.statistics, reference):
            known = replace(reference, statistics=model.statistics)
        return model, _with_statistics(known, held, threads)
    known = _with_statistics(model if reference is None else reference, held, threads)
    if known.statistics is None:
        raise UsageError(
            "nothing to tell from: give --data, or a model of qtool calibrate --gram, or a "
            "quantized model with --reference"
        )
    return quantize(known, check=False, **options), known


def _is_of(statistics: Statistics | None, model: Model) -> bool:
    return statistics is not None and statistics.model == fingerprint(model)


def _with_statistics(model: Model, held: Held | None, threads: int) -> Model:
    """Return the model with Gram matrices, its own or of the samples where there are any."""
    known = model.statistics
    if known is not None and known.grams or held is None:
        return model
    found = calibrate(model, data=held, threads=threads, gram=True).statistics
    if known is not None and found is not None:  # ranges of more samples, matrices of these
        found = replace(found, tensors={**found.tensors, **known.tensors})
    return replace(model, statistics=found)


def _sensitivity(
    quantized: Model, known: Model, held: Held | None, threads: int, progress: Progress
) -> Sensitivity:
    if known.statistics is None and held is None:
        raise UsageError("nothing to tell from: give --data, or a calibrated --reference")
    paired, lost = _paired(quantized, known)
    if lost:
        log.warning("%d quantized nodes have no counterpart, such as %s", len(lost), lost[0])
    noises = _noises(paired, known.statistics)
    alone: dict[str, Measured] = {}
    together: dict[str, Measured] = {}
    if held is not None:
        together = measure_together(quantized, known, held, threads=threads, progress=progress)
        alone = measure_alone(known, paired, held, threads=threads, progress=progress)
    shares = _shares(paired, noises, alone)
    shown = {name: one.cumulative for name, one in together.items() if one.cumulative is not None}
    summed = cumulative(paired, noises, {name: 10 ** (-db / 10) for name, db in shown.items()})
    rows = [
        _row(
            pair,
            noises.get(pair.label),
            summed.get(pair.label),
            alone.get(pair.label, Measured()),
            together.get(pair.output, Measured()),
            shares[pair.label],
            cause_of(pair, noises.get(pair.label), known.statistics, shares[pair.label]),
        )
        for pair in paired
    ]
    exact = all(noise.exact for noise in noises.values()) and bool(noises)
    return Sensitivity(tuple(rows), tuple(lost), 0 if held is None else held.n, exact)


def _paired(quantized: Model, reference: Model) -> tuple[list[Pair], list[str]]:
    paired, lost = pairs(quantized, reference)
    if not paired:
        raise UnsupportedError(
            "no quantized layer could be paired with one of the float model: they need equal node "
            "or tensor names, in QDQ form (quantize --format qdq)"
        )
    return paired, lost


def _noises(paired: list[Pair], statistics: Statistics | None) -> dict[str, Noise]:
    if statistics is None:
        return {}
    found = {pair.label: noise_of(pair, statistics) for pair in paired}
    return {label: noise for label, noise in found.items() if noise is not None}


def _shares(
    paired: list[Pair], noises: Mapping[str, Noise], alone: Mapping[str, Measured]
) -> dict[str, float]:
    """Return each layer's part of the noise: at the model's outputs if measured there."""
    found = {}
    for pair in paired:
        measured, noise = alone.get(pair.label, Measured()).outputs, noises.get(pair.label)
        if measured is not None:
            found[pair.label] = 10 ** (-measured / 10)
        else:
            found[pair.label] = 0.0 if noise is None or alone else noise.relative
    total = sum(found.values())
    return {label: value / total if total else 0.0 for label, value in found.items()}


def _row(
    pair: Pair,
    noise: Noise | None,
    summed: float | None,
    alone: Measured,
    together: Measured,
    share: float,
    cause: Cause | None,
) -> LayerSensitivity:
    return LayerSensitivity(
        name=pair.label,
        op=pair.op,
        tensor=pair.output,
        types=_types(pair),
        sqnr=None if noise is None else noise.sqnr,
        cumulative=None if summed is None else _db(summed),
        measured_sqnr=alone.layer,
        measured_outputs=alone.outputs,
        measured_cumulative=together.cumulative,
        saturated=together.saturated,
        share=share,
        parts={} if noise is None else _parts(noise),
        cause="" if cause is None else cause.name,
        facts="" if cause is None else cause.facts,
        remedy="" if cause is None else cause.remedy,
    )


def _parts(noise: Noise) -> dict[str, float]:
    whole = noise.total or 1.0
    return {
        "weights": noise.weights / whole,
        "inputs": noise.inputs.total / whole,
        "output": noise.output.total / whole,
    }


def _types(pair: Pair) -> str:
    """Return the integers of weights, what is read, and what is given: "int8 uint8 uint8"."""
    weight = "-" if pair.weight is None else pair.weight.dtype
    read = pair.inputs[0][2].dtype if pair.inputs else "-"
    given = "-" if pair.output_qparams is None else pair.output_qparams.dtype
    return f"{weight} {read} {given}"


def _db(relative: float) -> float:
    return -10 * math.log10(relative) if relative > 0 else math.inf
