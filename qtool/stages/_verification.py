"""The report of verify, and the gate."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

from qtool.model import Json
from qtool.stages._json import finite
from qtool.stages._layer_sums import Sums, sqnr
from qtool.stages._layers import Layer


@dataclass(frozen=True)
class LayerReport:
    """What verify found at one tensor. None: there is nothing to compare with, or no integers.

    sqnr: of the native runtime against float, dB; lost: how much less than the worst layer that
    it is computed from. exact: share of elements equal in both runtimes. enters: it differs
    though all that it is computed from is exact.
    """

    name: str
    op: str
    dtype: str
    n: int
    exact: float
    enters: bool
    max_lsb: int | None
    mean_lsb: float | None
    max_abs: float | None
    saturated: float | None
    sqnr: float | None
    sqnr_onnxruntime: float | None
    lost: float | None


@dataclass(frozen=True)
class OutputReport:
    """One output of the models as they are.

    agreement: percent of samples of the same class as in float, or as in onnxruntime's int8; None
    for outputs that are no classes. max_lsb: max_abs over the step of a dequantized output.
    """

    name: str
    sqnr: float | None
    sqnr_onnxruntime: float | None
    agreement: float | None
    agreement_onnxruntime: float | None
    exact: float
    max_abs: float
    max_lsb: float | None


@dataclass(frozen=True)
class Verification:
    """What verify found. passed: None without a threshold; failures says what was not met."""

    samples: int
    layers: tuple[LayerReport, ...]
    outputs: tuple[OutputReport, ...]
    sqnr: float | None
    agreement: float | None
    max_lsb: int
    first_difference: str | None
    most_lost: str | None
    windows: int
    seconds: float = 0.0
    passed: bool | None = None
    failures: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Json]:
        """Return the report as a JSON object; what is not a finite number is null."""
        found: dict[str, Json] = finite(asdict(self))
        return found


def layer_reports(layers: Sequence[Layer], sums: Mapping[str, Sums]) -> tuple[LayerReport, ...]:
    """Return the report of each layer; sums are those of all samples by layer name."""
    done: dict[str, LayerReport] = {}
    for layer in layers:
        done[layer.name] = _layer_report(layer, sums[layer.name], done)
    return tuple(done.values())


def _layer_report(layer: Layer, s: Sums, done: Mapping[str, LayerReport]) -> LayerReport:
    integers = layer.qparams is not None
    sources = [done[name] for name in layer.sources if name in done]
    mine = sqnr(s.signal, s.noise)
    before = [source.sqnr for source in sources if source.sqnr is not None]
    exact = s.n_exact == s.n
    return LayerReport(
        name=layer.name,
        op=layer.op,
        dtype="float32" if layer.qparams is None else layer.qparams.dtype,
        n=s.n,
        exact=s.n_exact / s.n if s.n else 1.0,
        enters=not exact and all(source.exact == 1 for source in sources),
        max_lsb=s.most_lsb if integers else None,
        mean_lsb=(s.lsb / s.n if s.n else 0.0) if integers else None,
        max_abs=None if integers else s.most_apart,
        saturated=(s.n_saturated / s.n if s.n else 0.0) if integers else None,
        sqnr=mine,
        sqnr_onnxruntime=sqnr(s.signal, s.noise_onnxruntime),
        lost=_lost(before, mine),
    )


def _lost(before: Iterable[float], mine: float | None) -> float | None:
    worst = min(before, default=None)
    if worst is None or mine is None or not math.isfinite(worst) or not math.isfinite(mine):
        return None
    return worst - mine


def most_lost(layers: Iterable[LayerReport]) -> str | None:
    """Return the name of the layer that loses most against float."""
    known = [layer for layer in layers if layer.lost is not None]
    return max(known, key=lambda layer: layer.lost or 0.0).name if known else None


def failures(
    report: Verification, min_sqnr: float | None, max_lsb: int | None, min_agreement: float | None
) -> tuple[str, ...]:
    """Return what does not meet a threshold, each in words."""
    found = []
    if min_sqnr is not None and not _reaches(report.sqnr, min_sqnr):
        found.append(
            f"the sqnr against float is {_text(report.sqnr, ' dB')}; {min_sqnr:g} dB is needed"
        )
    if max_lsb is not None and report.max_lsb > max_lsb:
        worst = max(report.layers, key=lambda layer: layer.max_lsb or 0)
        found.append(
            f"layer {worst.name!r} differs from onnxruntime by {report.max_lsb} LSB; "
            f"{max_lsb} is allowed"
        )
    if min_agreement is not None and not _reaches(report.agreement, min_agreement):
        found.append(
            f"the agreement with float is {_text(report.agreement, ' %')}; "
            f"{min_agreement:g} % is needed"
        )
    return tuple(found)


def _reaches(value: float | None, wanted: float) -> bool:
    return value is not None and value >= wanted  # NaN does not


def _text(value: float | None, unit: str) -> str:
    return "unknown" if value is None else f"{value:.4g}{unit}"
