"""What the page says, in the words and the order of page.html."""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from markupsafe import Markup

from qtool import __version__
from qtool.page import figures, words
from qtool.page.curve import Curve
from qtool.page.layers import FORMS, cards, columns, table
from qtool.page.svg import style
from qtool.stages.report import ModelReport, WorstSample

SECTIONS = {
    "summary": "Summary",
    "accuracy": "Accuracy",
    "errors": "Error",
    "layers": "Layers",
    "histograms": "Values",
    "size": "Size",
    "curve": "Trade-off",
    "samples": "Worst samples",
    "history": "How it was made",
    "words": "Words",
}
METRICS = {
    "top1": "top-1",
    "top5": "top-5",
    "auc": "AUC",
    "sqnr": "SQNR",
    "max-abs": "largest error",
}
MOST_KINDS = 5  # of storage that are told apart
MARKS = {
    "lost": ("bad", "only float right"),
    "changed": ("plain", "another class"),
    "won": ("good", "only model right"),
    "same": ("plain", "same class"),
}
MEANINGS = (
    ("SQNR", "Signal to quantization noise ratio in dB, 10 log10(Σ float² / Σ (model − float)²). "
     "6 dB more halve the error; 30 dB are an error of 3 %."),
    ("lost", "How many dB a layer's SQNR is under that of the worst layer that it is computed "
     "from: where error enters."),
    ("at ends", "The share of integers at an end of their range that does not stand for 0."),
    ("clipped", "The share of float values more than half a step outside of the integers' range."),
    ("computes", "integer: operands and result are integers. weights: only the weights are stored "
     "as integers. float: neither."),
    ("agreement", "On how many samples both models find the same class, whether right or not."),
    ("95 % interval", "Of the paired difference on the same samples; where it holds 0, the "
     "difference may be chance."),
    ("MACs", "Multiply-accumulates of one run."),
)  # fmt: skip


@dataclass(frozen=True)
class Page:
    """A report, and what only the command knows: names, sizes of files, labels, commands."""

    report: ModelReport
    name: str
    reference_name: str = ""
    file_bytes: int | None = None
    reference_bytes: int | None = None
    labels: Sequence[str] = ()
    script: str = ""
    source: str | None = None
    curve: Curve | None = None


def context(page: Page) -> dict[str, Any]:
    """Return what page.html is filled with."""
    found = page.report
    kinds = _kinds(found.stored)
    with style():
        plots = list(cards(found.layers))
        filled: dict[str, Any] = {
            "name": words.plain(page.name),
            "version": __version__,
            "verdict": _verdict(page),
            "tiles": list(_tiles(page)),
            "notes": [*found.notes, *_warnings(found)],
            "accuracy": _accuracy(page),
            "errors": _errors(found),
            "forms": [(f, t) for f, t in FORMS.items() if any(x.form == f for x in found.layers)],
            "columns": columns(),
            "layers": list(table(found.layers)),
            "cards": plots,
            "histograms": _histograms(found),
            "size": _size(page, kinds),
            "curve": _curve(page),
            "worst": _worst(page),
            "script": page.script,
            "made": list(_made(page)),
            "words": MEANINGS,
        }
    absent = {key for key in ("accuracy", "errors", "curve") if not filled[key]}
    absent |= {"samples"} if not filled["worst"] else set()
    filled["sections"] = [(key, title) for key, title in SECTIONS.items() if key not in absent]
    return filled


def metric_name(metric: str) -> str:
    """Return how a metric is called in a sentence."""
    return METRICS.get(metric, metric)


def _smaller(page: Page) -> float | None:
    if not page.file_bytes or not page.reference_bytes:
        return None
    return page.reference_bytes / page.file_bytes


def _verdict(page: Page) -> str:
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
    if _agrees(found):
        assert known is not None
        parts.append(f"Both find the same class on {known.agreement:.4g} % of the samples.")
    share = found.coverage.by_macs
    if share.integer:
        parts.append(f"{words.share(share.fraction)} of the multiply-accumulates are in integers.")
    return " ".join(parts) or "What is in this model."


def _agrees(found: ModelReport) -> bool:
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


def _tiles(page: Page) -> Iterator[dict[str, Any]]:
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
    if _agrees(found):
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


def _warnings(found: ModelReport) -> Iterator[str]:
    if found.data_source == "random":
        yield "The samples are random: they say little about accuracy."


def _accuracy(page: Page) -> dict[str, Any] | None:
    found = page.report
    known = found.evaluation
    if known is None:
        return None
    unit = f" {known.unit}" if known.unit else ""
    points = " points" if known.unit == "%" else unit
    number = words.digits if known.unit == "%" else words.short
    rows = [(metric_name(known.metric), f"{number(known.value)}{unit}")]
    if known.reference is not None:
        rows.append(("reference", f"{number(known.reference)}{unit}"))
    if known.drop is not None:
        rows.append(("drop", f"{number(known.drop)}{points}"))
    if known.drop_ci95 is not None:
        low, high = map(number, known.drop_ci95)
        rows.append(("95 % interval of the drop", f"{low} to {high}{points}"))
    if known.p_value is not None:
        rows.append(("McNemar's exact test", f"p = {words.short(known.p_value)}"))
    if _agrees(found):
        rows.append(("agreement", f"{words.digits(known.agreement)} %"))
    if len(known.outputs) > 1:
        rows += [
            (f"output {words.plain(name, 60)}", f"{words.short(v)}{unit}")
            for name, v in known.outputs.items()
        ]
    rows.append(("samples", words.whole(known.n)))
    paired = None
    if found.both_right is not None and known.metric == "top1":
        lost, won = found.kinds.get("lost", 0), found.kinds.get("won", 0)
        numbers = (found.both_right, lost, won, found.samples - found.both_right - lost - won)
        paired = [words.whole(number) for number in numbers]
    text = f"{metric_name(known.metric)} of the model"
    if page.reference_name:
        text += f" beside {words.plain(page.reference_name, 80)}, on the same samples"
    return {
        "text": f"{text[:1].upper()}{text[1:]}.",
        "rows": rows,
        "paired": paired,
        "total": words.whole(found.samples),
    }


def _errors(found: ModelReport) -> dict[str, Any] | None:
    drawn = figures.errors(found.layers)
    if not drawn:
        return None
    known = [x for x in found.layers if x.error is not None and x.error.lost is not None]
    worst = max(known, key=lambda x: (x.error.lost or 0.0) if x.error else 0.0, default=None)
    text = (
        f"How far each tensor is from the float model's, over {found.layer_samples} samples; "
        "lines join a layer to those that it is computed from. A point leads to its layer."
    )
    if worst is not None and worst.error is not None and (worst.error.lost or 0) > 0:
        lost = words.digits(worst.error.lost, 1)
        text += f" {words.plain(worst.name, 80)} loses most, {lost} dB."
    present = {x.form for x in found.layers if x.error is not None}
    legend = [(figures.FORM_COLORS[f], t) for f, t in FORMS.items() if f in present]
    return {"svg": Markup(drawn), "text": text, "legend": legend,
            "lost_db": f"{figures.LOST_DB:g}"}  # fmt: skip


def _histograms(found: ModelReport) -> dict[str, Any]:
    measured = found.layer_samples > 0
    calibrated = any(x.activation is not None and x.activation.calibrated for x in found.layers)
    text = "Counts are on a log scale, so that the tails, which a range cuts, can be seen."
    if measured:
        text += f" Activations are those of the float model on {found.layer_samples} samples."
    elif calibrated:
        text += " Activations are those that the calibration saw."
    outlined = "weights: what the integers stand for"
    if measured and calibrated:
        outlined += "; activations: what the calibration saw"
    return {
        "text": text,
        "filled": "float values",
        "outlined": outlined,
        "channels": any(len(w.ranges) > 1 for x in found.layers for w in x.weights),
    }


def _kinds(stored: Mapping[str, int]) -> list[str]:
    """Return the kinds of storage that are told apart, the most bytes first."""
    ordered = [kind for kind, n_bytes in stored.items() if n_bytes]
    return ordered if len(ordered) <= MOST_KINDS else [*ordered[: MOST_KINDS - 1], "other"]


def _size(page: Page, kinds: Sequence[str]) -> dict[str, Any]:
    found = page.report
    total = sum(found.stored.values())
    rest = max(0, page.file_bytes - total) if page.file_bytes else 0
    parts = []
    whole = total + rest
    for kind in kinds:
        n_bytes = found.stored.get(kind)
        if n_bytes is None:
            n_bytes = total - sum(found.stored.get(k, 0) for k in kinds if k != "other")
        parts.append((kind, n_bytes, figures.kind_color(kind, kinds)))
    if rest:
        parts.append(("graph, names and what else is in the file", rest, "line"))
    told = [
        {
            "kind": kind,
            "size": words.size(n_bytes),
            "share": words.share(n_bytes / whole),
            "percent": f"{100 * n_bytes / whole:.3f}",
            "color": color,
        }
        for kind, n_bytes, color in parts
        if whole
    ]
    text = f"{words.size(total)} of constants"
    if page.file_bytes:
        text += f" in a file of {words.whole(page.file_bytes)} bytes"
    return {
        "text": f"{text}, by type and, where they are not stored plainly, by codec.",
        "parts": told,
        "label": ", ".join(f"{part['kind']} {part['share']}" for part in told),
        "svg": Markup(figures.sizes(found.layers, kinds)),
        "has_reference": any(x.float_bytes for x in found.layers),
    }


def _curve(page: Page) -> dict[str, Any] | None:
    if page.curve is None:
        return None
    curve = page.curve.choose(page.file_bytes)
    return {"svg": Markup(curve.svg()), "text": curve.text()}


def _worst(page: Page) -> dict[str, Any] | None:
    found = page.report
    if not found.worst:
        return None
    if found.kinds:
        changed = found.samples - found.kinds.get("same", 0)
        text = f"{words.whole(changed)} of {words.whole(found.samples)} samples change class. "
        order = "the class, then the error" if changed else "the error"
        text += f"These {len(found.worst)} come first by what happened to {order} of the output."
    else:
        text = f"The {len(found.worst)} samples with the largest error at an output."
    return {"text": text, "samples": [_sample(one, n, page) for n, one in enumerate(found.worst)]}


def _sample(one: WorstSample, number: int, page: Page) -> dict[str, Any]:
    seen, picture = one.seen, one.picture
    facts = []
    if seen.guess is not None:
        if seen.label is not None:
            facts.append(("label", _class(seen.label, page.labels)))
        if seen.reference_guess is not None:
            facts.append(("float", _class(seen.reference_guess, page.labels)))
        facts.append(("model", _class(seen.guess, page.labels)))
    if seen.sqnr is not None:
        facts.append(("SQNR", f"{words.digits(seen.sqnr, 1)} dB"))
    shown: dict[str, Any] = {"svg": "", "image": "", "width": 0, "height": 0}
    if picture is not None and picture.curve:
        shown["svg"] = Markup(figures.curve(picture.curve, f"sample-{number}"))
    elif picture is not None:
        content = base64.b64encode(picture.content).decode()
        width, height = picture.size
        shown |= {"image": f"data:{picture.media};base64,{content}", "width": width,
                  "height": height}  # fmt: skip
    where = words.plain(seen.where)
    return {
        **shown,
        "facts": facts,
        "where": where,
        "short": words.plain(_short(seen.where, seen.row), 26),
        "mark": MARKS.get(seen.kind) if seen.kind else None,
    }


def _short(where: str, row: int) -> str:
    """Return the file and the row of a sample, without the folders."""
    place = re.fullmatch(r".*\.np[yz] (row \d+)", where, re.DOTALL)
    name = place[1] if place else PurePath(where).name or where
    return f"{name} row {row}" if row else name


def _class(number: int, labels: Sequence[str]) -> str:
    if 0 <= number < len(labels) and labels[number].strip():
        return words.plain(labels[number].strip(), 60)
    return str(number)


def _made(page: Page) -> Iterator[tuple[str, str]]:
    """Yield facts about where the model comes from."""
    found = page.report.inspection
    for what, ports in (("inputs", found.inputs), ("outputs", found.outputs)):
        yield (
            what,
            "; ".join(
                f"{words.plain(p.name, 80)} {p.dtype or ''}{words.shape(p.shape)}" for p in ports
            ),
        )
    opsets = ", ".join(f"{domain} {version}" for domain, version in found.opsets.items())
    yield "opset", words.plain(opsets)
    if found.producer:
        yield "producer", words.plain(found.producer)
    versions = sorted({str(s["version"]) for s in found.history if s["version"]})
    if versions:
        yield "made with", f"qtool {', '.join(versions)}"
    if page.source:
        yield "SHA-256 of the model it began with", page.source
    known = found.statistics
    if known is not None:
        drawn = " random" if known.source == "random" else ""
        yield "calibration", f"{words.whole(known.n_samples)}{drawn} samples"
    if found.preprocess:
        pairs = (f"{key} = {value}" for key, value in sorted(found.preprocess.items()))
        yield "preprocessing", words.plain(", ".join(pairs))
