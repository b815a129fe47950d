"""The top of the page: the result in a sentence or two, and its numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from qtool.page import words
from qtool.page.subject import Page
from qtool.stages.report import ModelReport

METRICS = {
    "top1": "top-1",
    "top5": "top-5",
    "auc": "AUC",
    "sqnr": "SQNR",
    "max-abs": "largest error",
}


def metric_name(metric: str) -> str:
    """Return how a metric is called in a sentence."""
    return METRICS.get(metric, metric)


def _smaller(page: Page) -> float | None:
    if not page.file_bytes or not page.reference_bytes:
        return None
    return page.reference_bytes / page.file_bytes


def verdict(page: Page) -> str:
    """Return the result in a sentence or two."""
    found, ratio = page.report, _smaller(page)
    parts = []
    if ratio is not None and ratio >= 1.05:
        parts.append(f"{ratio:.3g} times smaller than {words.plain(page.reference_name, 60)}.")
    elif page.file_bytes:
        parts.append(f"{words.size(page.file_bytes)}.")
    known = found.evaluation
    if known is not None and known.drop is not None and not math.isnan(known.drop):
        parts.append(_drop_sentence(found))
    if known is not None and known.metric == "sqnr":
        text = f"The SQNR of its outputs is {words.digits(known.value, 1)} dB"
        parts.append(f"{text} on {words.whole(known.n)} samples.")
    if agrees(found):
        assert known is not None
        parts.append(f"Both find the same class on {known.agreement:.4g} % of the samples.")
    share = found.coverage.by_macs
    if share.integer:
        parts.append(f"{words.share(share.fraction)} of the multiply-accumulates are in integers.")
    return " ".join(parts) or "What is in this model."


def agrees(found: ModelReport) -> bool:
    """Return whether agreement says something that the metric does not."""
    known = found.evaluation
    if known is None or known.agreement is None or known.metric == "agreement":
        return False
    return bool(found.kinds)  # else the outputs are no classes


def _drop_sentence(found: ModelReport) -> str:
    known = found.evaluation
    assert known is not None
    assert known.drop is not None
    unit = " points" if known.unit == "%" else f" {known.unit}" if known.unit else ""
    name = metric_name(known.metric)
    name = name[:1].upper() + name[1:]
    n = f"{words.whole(known.n)} samples"
    if known.metric == "agreement":
        return f"It finds the reference's class on {known.value:.4g} % of {n}."
    if known.reference is None:
        return f"{name} against the reference is {words.short(known.value)}{unit} on {n}."
    if known.drop == 0:
        return f"{name} is the same on {n}."
    verb = "falls" if known.drop > 0 else "rises"
    amount = words.short(abs(known.drop))
    text = f"{name} {verb} by {amount}{unit.removesuffix('s') if amount == '1' else unit} on {n}"
    if known.drop_ci95 is None:
        return f"{text}."
    if known.drop_ci95[0] <= 0 <= known.drop_ci95[1]:
        return f"{text}, which is within chance."
    return f"{text}, which is more than chance."


def tiles(page: Page) -> Iterator[dict[str, Any]]:
    """Yield the numbers at the top."""
    found, ratio = page.report, _smaller(page)
    known = found.evaluation
    if page.file_bytes:
        note = "the file"
        if page.reference_bytes and ratio is not None:
            note = f"{1 / ratio:.2f}× of {words.size(page.reference_bytes)}"
        yield _tile("Size", words.size(page.file_bytes), note)
    else:
        yield _tile("Weights", words.size(found.inspection.weight_bytes), "of all constants")
    if known is not None:
        unit = known.unit
        value = words.digits(known.value) if unit == "%" else words.short(known.value)
        note = f"{words.whole(known.n)} samples"
        if known.reference is not None:
            other = words.digits(known.reference) if unit == "%" else words.short(known.reference)
            note = f"reference {other}{' ' + unit if unit else ''}"
        name = metric_name(known.metric)
        yield _tile(name[:1].upper() + name[1:], value, note, unit=unit)
    if known is not None and known.drop is not None and known.reference is not None:
        yield _drop_tile(known)
    if agrees(found):
        assert known is not None
        assert known.agreement is not None
        yield _tile("Agreement", words.digits(known.agreement), "same class as float", unit="%")
    share = found.coverage.by_macs
    if share.integer:
        note = f"of {words.count(share.total)} MACs"
        yield _tile("In integers", words.share(share.fraction), note)
    worst = _output_error(found)
    if worst is not None and (known is None or known.metric != "sqnr"):
        yield _tile("Error at the output", words.digits(worst, 1), "SQNR of the worst", unit="dB")


def _tile(
    what: str, value: str, note: str, *, unit: str = "", mark: tuple[str, str] | None = None
) -> dict[str, Any]:
    return {"what": what, "value": value, "note": note, "unit": unit, "mark": mark}


def _drop_tile(known: Any) -> dict[str, Any]:
    unit = "points" if known.unit == "%" else known.unit
    note, mark = "", None
    if known.drop_ci95 is not None:
        low, high = known.drop_ci95
        note = f"95 % interval {words.digits(low)} to {words.digits(high)}"
        beyond = ("bad", "worse") if low > 0 else ("good", "better")
        mark = ("plain", "within chance") if low <= 0 <= high else beyond
    return _tile("Drop", words.digits(known.drop), note, unit=unit, mark=mark)


def _output_error(found: ModelReport) -> float | None:
    """Return the SQNR of the worst layer that nothing else is computed from."""
    used = {source for layer in found.layers for source in layer.sources}
    ends = [
        layer.error.sqnr
        for layer in found.layers
        if layer.error is not None and layer.error.sqnr is not None and layer.number not in used
    ]
    known = [value for value in ends if math.isfinite(value)]
    return min(known, default=None)
