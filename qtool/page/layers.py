"""The layer table of the page, and the card of each layer with its histograms."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from markupsafe import Markup

from qtool.page import figures, words
from qtool.stages.report import LayerFacts

FORMS = {"integer": "integer", "weights": "weights only", "float": "float"}
PLOT_BYTES = 1_500_000  # of all histograms; those of the layers that matter least are left out
MOST_ROWS = 600
SHARE_DIGITS = 6

COLUMNS = (
    ("#", True, "Place in running order"),
    ("Layer", False, "Name of the node"),
    ("Operator", False, "ONNX operator, with what clamps its result"),
    ("Computes", False, "In integers, with integer weights only, or in float"),
    ("Weights", False, "Type of the weights as stored"),
    ("Bytes", True, "Of all constants that the layer reads, as stored"),
    ("× float", True, "Bytes over those of the reference's constants"),
    ("MACs", True, "Multiply-accumulates of one run"),
    ("SQNR dB", True, "Of the layer's result against float"),
    ("Lost dB", True, "SQNR under that of the worst layer it is computed from"),
    ("At ends %", True, "Integers at an end of the range that does not stand for 0"),
    ("Clipped %", True, "Float values outside of the integers' range"),
)


def columns() -> list[dict[str, Any]]:
    """Return the heads of the table."""
    return [{"name": name, "number": number, "title": title} for name, number, title in COLUMNS]


def shown(layers: Sequence[LayerFacts]) -> list[LayerFacts]:
    """Return the layers of the page: all, or the MOST_ROWS of most bytes and MACs."""
    if len(layers) <= MOST_ROWS:
        return list(layers)
    chosen = sorted(layers, key=lambda x: (-x.n_bytes, -(x.macs or 0), x.number))[:MOST_ROWS]
    return sorted(chosen, key=lambda x: x.number)


def table(layers: Sequence[LayerFacts]) -> Iterator[dict[str, Any]]:
    """Yield the rows of the table."""
    kept = shown(layers)
    most = max((layer.n_bytes for layer in kept), default=0)
    for layer in kept:
        yield {"number": layer.number, "form": layer.form, "cells": list(_cells(layer, most))}


def _cells(layer: LayerFacts, most_bytes: int) -> Iterator[dict[str, Any]]:
    error = layer.error
    sqnr, lost, saturated = (
        (None,) * 3 if error is None else (error.sqnr, error.lost, error.saturated)
    )
    clipped = None if layer.activation is None else layer.activation.clipped
    dtypes = ", ".join(dict.fromkeys(weight.dtype for weight in layer.weights))
    ratio = layer.n_bytes / layer.float_bytes if layer.float_bytes else None
    yield _cell(str(layer.number), layer.number)
    yield _cell(words.plain(layer.name), layer.name, head=True)
    yield _cell(layer.op, layer.op)
    yield _cell(FORMS[layer.form], layer.form, badge=layer.form, title=layer.reason)
    yield _cell(dtypes, dtypes)
    yield _cell(
        words.size(layer.n_bytes) if layer.n_bytes else "", layer.n_bytes or None,
        bar=round(100 * layer.n_bytes / most_bytes) if most_bytes and layer.n_bytes else None,
    )  # fmt: skip
    yield _cell("" if ratio is None else f"{ratio:.2f}", ratio)
    yield _cell(words.count(layer.macs) if layer.macs else "", layer.macs or None)
    yield _cell(words.digits(sqnr, 1), sqnr)
    yield _cell(words.digits(lost, 1), lost)
    yield _cell(_percent(saturated), saturated)
    yield _cell(_percent(clipped), clipped)


def _percent(share: float | None) -> str:
    """Return a share in percent without the sign, which the head of the column has."""
    return words.share(share).removesuffix(" %").replace("< ", "<").replace("> ", ">")


def _cell(
    text: str,
    key: str | float | None,
    *,
    head: bool = False,
    badge: str = "",
    title: str = "",
    bar: int | None = None,
) -> dict[str, Any]:
    return {
        "text": text,
        "key": _key(key),
        "number": not isinstance(key, str) and not head and not badge,
        "head": head,
        "badge": badge,
        "title": words.plain(title),
        "bar": bar,
    }


def _key(value: str | float | None) -> str:
    """Return what the table is sorted by: text, or a number as JavaScript reads it."""
    if value is None or isinstance(value, float) and math.isnan(value):
        return ""
    if isinstance(value, str):
        return words.plain(value)
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return f"{value:.{SHARE_DIGITS}g}" if isinstance(value, float) else str(value)


def cards(layers: Sequence[LayerFacts]) -> Iterator[dict[str, Any]]:
    """Yield the card of each layer of the table, in running order."""
    kept = shown(layers)
    drawn: dict[int, list[dict[str, Any]]] = {}
    spent = 0
    for layer in sorted(kept, key=_importance):
        plots = list(_plots(layer, draw=spent < PLOT_BYTES))
        spent += sum(len(plot["svg"]) for plot in plots)
        drawn[layer.number] = plots
    for layer in kept:
        yield {
            "number": layer.number,
            "name": words.plain(layer.name),
            "op": layer.op,
            "shape": words.shape(layer.shape),
            "form": layer.form,
            "form_text": FORMS[layer.form],
            "reason": words.plain(layer.reason),
            "sqnr": words.digits(None if layer.error is None else layer.error.sqnr, 1),
            "plots": drawn[layer.number],
        }


def _importance(layer: LayerFacts) -> tuple[float, int, int]:
    lost = 0.0 if layer.error is None or layer.error.lost is None else layer.error.lost
    return -lost, -layer.n_bytes, layer.number


def _plots(layer: LayerFacts, *, draw: bool) -> Iterator[dict[str, Any]]:
    for place, weight in enumerate(layer.weights):
        name = f"w{layer.number}-{place}"
        yield {
            "what": "Weights",
            "text": ", ".join(_weight_facts(weight)),
            "svg": Markup(figures.weight(weight, name)) if draw else "",
        }
    known = layer.activation
    if known is not None:
        name = f"a{layer.number}"
        yield {
            "what": "Activations",
            "text": ", ".join(_activation_facts(known)),
            "svg": Markup(figures.activation(known, name, layer.tensor)) if draw else "",
        }


def _weight_facts(weight: Any) -> Iterator[str]:
    yield f"{weight.dtype}{words.shape(weight.shape)}"
    if weight.codec != "raw":
        yield weight.codec
    if weight.n_scales:
        yield f"{words.whole(weight.n_scales)} scale{'s' * (weight.n_scales > 1)}"
    if len(weight.ranges) == 1:
        low, high = weight.ranges[0]
        yield f"range {words.short(low)} to {words.short(high)}"
    if weight.n_distinct is not None and weight.n_distinct <= 256:
        yield f"{weight.n_distinct} distinct values"
    if weight.zeros is not None and weight.zeros >= 0.005:
        yield f"{words.share(weight.zeros)} zeros"
    if weight.sqnr is not None:
        yield f"{words.digits(weight.sqnr, 1)} dB"


def _activation_facts(known: Any) -> Iterator[str]:
    if known.dtype:
        yield known.dtype
    if known.range is not None:
        yield f"range {words.short(known.range[0])} to {words.short(known.range[1])}"
    if known.minimum is not None:
        yield f"seen {words.short(known.minimum)} to {words.short(known.maximum)}"
    if known.clipped:
        yield f"{words.share(known.clipped)} clipped"
