"""What the page says, in the words and the order of page.html."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from qtool import __version__
from qtool.page import figures, samples, summary, words
from qtool.page.layers import FORMS, cards, columns, table
from qtool.page.subject import Page
from qtool.page.svg import style
from qtool.stages.report import ModelReport

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
MOST_KINDS = 5  # of storage that are told apart
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


def context(page: Page) -> dict[str, Any]:
    """Return what page.html is filled with."""
    found = page.report
    kinds = _kinds(found.stored)
    with style():
        plots = list(cards(found.layers))
        filled: dict[str, Any] = {
            "name": words.plain(page.name),
            "version": __version__,
            "verdict": summary.verdict(page),
            "tiles": list(summary.tiles(page)),
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
            "worst": samples.worst(page),
            "script": page.script,
            "made": list(_made(page)),
            "words": MEANINGS,
        }
    absent = {key for key in ("accuracy", "errors", "curve") if not filled[key]}
    absent |= {"samples"} if not filled["worst"] else set()
    filled["sections"] = [(key, title) for key, title in SECTIONS.items() if key not in absent]
    return filled


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
    rows = [(summary.metric_name(known.metric), f"{number(known.value)}{unit}")]
    if known.reference is not None:
        rows.append(("reference", f"{number(known.reference)}{unit}"))
    if known.drop is not None:
        rows.append(("drop", f"{number(known.drop)}{points}"))
    if known.drop_ci95 is not None:
        low, high = map(number, known.drop_ci95)
        rows.append(("95 % interval of the drop", f"{low} to {high}{points}"))
    if known.p_value is not None:
        rows.append(("McNemar's exact test", f"p = {words.short(known.p_value)}"))
    if summary.agrees(found):
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
    text = f"{summary.metric_name(known.metric)} of the model"
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
    for step in found.history:
        for about, choice in step.get("decided", {}).items():
            said = choice if isinstance(choice, str) else json.dumps(choice)
            yield f"{step['command']} decided: {about}", words.plain(said, 400)
    known = found.statistics
    if known is not None:
        drawn = "" if known.source == "samples" else f" {known.source}"
        yield "calibration", f"{words.whole(known.n_samples)}{drawn} samples"
    if found.preprocess:
        pairs = (f"{key} = {value}" for key, value in sorted(found.preprocess.items()))
        yield "preprocessing", words.plain(", ".join(pairs))
