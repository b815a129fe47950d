"""The outputs of a model in both runtimes and of its float reference, compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import numpy.typing as npt

from qtool.data import Sample
from qtool.errors import DataError
from qtool.metrics import METRICS
from qtool.model import Model
from qtool.quant.qdq_constants import read_qparams
from qtool.stages._layer_sums import Sums, compared, sqnr
from qtool.stages._scoring import is_classes, rows_of
from qtool.stages._verification import OutputReport

Array = npt.NDArray[Any]
AGREEMENT = METRICS["agreement"]


@dataclass(frozen=True)
class Seen:
    """One output for one sample; rows of agreement with float, and with onnxruntime's int8."""

    sums: Sums
    same: Array | None
    same_onnxruntime: Array | None


def seen(
    sample: Sample,
    native: Mapping[str, Array],
    theirs: Mapping[str, Array],
    real: Mapping[str, Array] | None,
) -> dict[str, Seen]:
    """Return each output of one sample, compared; the reference's are matched by name, or place.

    Raises:
        DataError: the models differ in their outputs.
    """
    if real is not None and len(real) != len(native):
        raise DataError(
            f"the model's outputs are {', '.join(native)}, the reference's {', '.join(real)}; "
            "they must be the same"
        )
    by_place = None if real is None or set(native) <= set(real) else list(real.values())
    found = {}
    for place, name in enumerate(native):
        other = None
        if real is not None:
            other = rows_of(real[name] if by_place is None else by_place[place], sample)
        mine = rows_of(native[name], sample)
        found[name] = _seen(sample, name, mine, rows_of(theirs[name], sample), other)
    return found


def _seen(sample: Sample, name: str, mine: Array, theirs: Array, real: Array | None) -> Seen:
    for what, other in (("onnxruntime", theirs), ("the reference", real)):
        if other is not None and other.shape != mine.shape:
            raise DataError(
                f"{sample.where}: output {name!r} has shape {mine.shape} in the native runtime "
                f"and {other.shape} in {what}; they must be the same"
            )
    same = same_onnxruntime = None
    like_input = any(feed.shape == mine.shape for feed in sample.feeds.values())
    if is_classes(mine) and not like_input:  # as evaluate tells classes from reconstructions
        same_onnxruntime = AGREEMENT.rows(mine, theirs)
        same = None if real is None else AGREEMENT.rows(mine, real)
    return Seen(compared(mine, theirs, real, None), same, same_onnxruntime)


def output_reports(model: Model, samples: Sequence[Mapping[str, Seen]]) -> tuple[OutputReport, ...]:
    """Return the report of each output of all samples."""
    steps = _steps(model)
    reports = []
    for name in samples[0]:
        mine = [of_sample[name] for of_sample in samples]
        sums = reduce(Sums.plus, [one.sums for one in mine])
        step = steps.get(name)
        reports.append(
            OutputReport(
                name=name,
                sqnr=sqnr(sums.signal, sums.noise),
                sqnr_onnxruntime=sqnr(sums.signal, sums.noise_onnxruntime),
                agreement=_percent([one.same for one in mine]),
                agreement_onnxruntime=_percent([one.same_onnxruntime for one in mine]),
                exact=sums.n_exact / sums.n if sums.n else 1.0,
                max_abs=sums.most_apart,
                max_lsb=None if step is None else sums.most_apart / step,
            )
        )
    return tuple(reports)


def _percent(rows: Sequence[Array | None]) -> float | None:
    known = [r for r in rows if r is not None]
    return AGREEMENT.value(np.concatenate(known)) if known else None


def _steps(model: Model) -> dict[str, float]:
    """Return the scale of each output that a DequantizeLinear gives."""
    found = {}
    for value in model.graph.outputs:
        producer = value.producer()
        if producer is not None and producer.op_type == "DequantizeLinear":
            qparams = read_qparams(producer)
            if qparams is not None and qparams.scale.ndim == 0 and value.name:
                found[value.name] = float(qparams.scale)
    return found
