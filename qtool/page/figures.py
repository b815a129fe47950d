"""The figures of the page. Each function returns an <svg> element."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from qtool.page import words
from qtool.page.svg import COLORS, figure, svg
from qtool.stages._report_tensors import Activation
from qtool.stages._report_weights import Bins, Weight
from qtool.stages.report import LayerFacts

SMALL = (340, 96)
WIDE = 1040
NAMED_LAYERS = 6  # points of the error curve that get their name
MOST_BARS = 24
MOST_UNUSED = 0.6  # of the width of a histogram: how far a range beyond it is drawn
LOST_DB = 3.0  # from here on an edge of the error curve is drawn as a loss
FORM_COLORS = {"integer": "int", "weights": "weights", "float": "float"}
PALETTE = ("int", "weights", "good", "bad", "muted", "int-soft")


def weight(known: Weight, name: str) -> str:
    """Return the histogram of a weight: float filled, what the integers stand for as a line."""
    if known.bins is None:
        return ""
    limits = sorted(known.ranges, key=lambda r: r[1] - r[0])
    label = f"Histogram of weight {words.plain(known.name)}"
    return _histogram(known.bins, limits, name, label)


def activation(known: Activation, name: str, tensor: str) -> str:
    """Return the histogram of an activation, with the range of its integers."""
    if known.bins is None:
        return ""
    limits = [] if known.range is None else [known.range]
    return _histogram(known.bins, limits, name, f"Histogram of {words.plain(tensor)}")


def _histogram(bins: Bins, limits: Sequence[tuple[float, float]], name: str, label: str) -> str:
    """Draw counts on a log scale; what lies outside of the widest range is shaded."""
    made = figure(*SMALL)
    axes = made.add_axes((0.012, 0.2, 0.976, 0.78))
    axes.stairs(_heights(bins.counts), bins.edges, fill=True, color=COLORS["float"], alpha=0.55)
    if bins.other and bins.other != bins.counts:
        axes.stairs(_heights(bins.other), bins.edges, color=COLORS["int"], linewidth=1.1)
    low, high = bins.edges[0], bins.edges[-1]
    if limits:
        far = MOST_UNUSED * (high - low)  # beyond, a range would leave no room for the values
        low = min(low, max(limits[-1][0], low - far))
        high = max(high, min(limits[-1][1], high + far))
    margin = 0.02 * (high - low)
    axes.set_xlim(low - margin, high + margin)
    axes.set_ylim(0, 1.06)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.locator_params(axis="x", nbins=6)
    for place, (first, last) in enumerate(limits):
        widest = place == len(limits) - 1
        for end, outside in ((first, low - margin), (last, high + margin)):
            if not low - margin <= end <= high + margin:
                continue
            axes.axvline(end, color=COLORS["bad"], linewidth=1.2 if widest else 0.8,
                         linestyle="-" if widest else (0, (2, 2)))  # fmt: skip
            if widest and end != outside:
                axes.axvspan(*sorted((end, outside)), color=COLORS["bad"], alpha=0.1, linewidth=0)
    return svg(made, name, label)


def _heights(counts: Sequence[int]) -> list[float]:
    most = math.log1p(max(counts, default=0)) or 1.0
    return [math.log1p(count) / most for count in counts]


def errors(layers: Sequence[LayerFacts]) -> str:
    """Return the SQNR of each layer along the graph, joined to the layers that it comes from."""
    known = {
        layer.number: layer.error.sqnr
        for layer in layers
        if layer.error is not None and layer.error.sqnr is not None
    }
    finite = [value for value in known.values() if math.isfinite(value)]
    if not finite:
        return ""
    low, high = min(finite), max(finite)
    span = max(high - low, 6.0)
    top = high + 0.12 * span
    places = {n: min(max(v, low - 0.1 * span), top) for n, v in known.items()}
    ends = min(known), max(known)
    made = figure(WIDE, 330)
    axes = made.add_axes((0.05, 0.1, 0.94, 0.87))
    shown = [layer for layer in layers if layer.number in known]
    _edges(axes, shown, places)
    tips = _points(axes, shown, places)
    _names(axes, shown, places, ends, span)
    _frame(axes, ends, (low - 0.16 * span, top + 0.06 * span))
    return svg(made, "errors", "SQNR of each layer along the graph", tips)


def _points(axes: Any, layers: Sequence[LayerFacts], places: Mapping[int, float]) -> dict[str, str]:
    """Draw a point for each layer, which leads to its card; return what each says."""
    tips: dict[str, str] = {}
    for form, color in FORM_COLORS.items():
        chosen = [layer for layer in layers if layer.form == form]
        if not chosen:
            continue
        points = axes.scatter(
            [layer.number for layer in chosen], [places[layer.number] for layer in chosen],
            s=34, edgecolors=COLORS["card"],
            color=[COLORS[color]] * len(chosen),  # one each: else all share the first one's link
            linewidths=1, zorder=3,
        )  # fmt: skip
        points.set_urls([f"#layer-{layer.number}" for layer in chosen])
        tips |= {f"layer-{layer.number}": _tip(layer) for layer in chosen}
    return tips


def _frame(axes: Any, ends: tuple[int, int], limits: tuple[float, float]) -> None:
    axes.set_ylabel("SQNR against float, dB", fontsize=9.5)
    axes.set_xlabel("layers in running order", fontsize=9.5)
    axes.set_xlim(ends[0] - 0.6, ends[1] + 0.6)
    axes.set_ylim(*limits)
    axes.grid(axis="y")
    axes.set_axisbelow(True)
    axes.spines["left"].set_visible(False)
    axes.xaxis.get_major_locator().set_params(integer=True, nbins=12)


def _edges(axes: Any, layers: Sequence[LayerFacts], places: Mapping[int, float]) -> None:
    for layer in layers:
        for source in layer.sources:
            if source not in places:
                continue
            lost = places[source] - places[layer.number] >= LOST_DB
            axes.plot(
                [source, layer.number], [places[source], places[layer.number]],
                color=COLORS["bad" if lost else "muted"], linewidth=1.4 if lost else 0.9,
                alpha=0.9 if lost else 0.55, zorder=1,
            )  # fmt: skip


def _names(
    axes: Any,
    layers: Sequence[LayerFacts],
    places: Mapping[int, float],
    ends: tuple[int, int],
    span: float,
) -> None:
    """Write the names of the layers that lose most, under their points."""
    losing = [
        layer
        for layer in layers
        if layer.error is not None and layer.error.lost is not None and layer.error.lost >= 1
    ]
    losing.sort(key=lambda layer: (-(layer.error.lost or 0) if layer.error else 0, layer.number))
    prefix = _shared_prefix(layers)
    taken: list[tuple[float, float]] = []
    width = ends[1] - ends[0] + 1
    apart = width / 8
    for layer in losing:
        x, y = layer.number, places[layer.number]
        if any(abs(x - a) < apart and abs(y - b) < 0.09 * span for a, b in taken):
            continue
        taken.append((x, y))
        at = (x - ends[0]) / width
        side = "left" if at < 0.1 else "right" if at > 0.9 else "center"
        axes.annotate(
            words.plain(layer.name.removeprefix(prefix), 28), (x, y), (0, -6),
            textcoords="offset points", ha=side, va="top", fontsize=9, color=COLORS["text"],
            annotation_clip=False,
        )  # fmt: skip
        if len(taken) == NAMED_LAYERS:
            return


def _shared_prefix(layers: Sequence[LayerFacts]) -> str:
    """Return what the names of all layers with weights begin with: there is no room for it."""
    return words.shared_prefix([layer.name for layer in layers if layer.n_bytes])


def _tip(layer: LayerFacts) -> str:
    found = layer.error
    assert found is not None
    lost = "" if found.lost is None else f", {words.digits(found.lost)} dB lost here"
    return f"{words.plain(layer.name)} ({layer.op}): {words.digits(found.sqnr)} dB{lost}"


def sizes(layers: Sequence[LayerFacts], kinds: Sequence[str]) -> str:
    """Return a bar per layer: its bytes by kind of storage, over those of the float model."""
    heavy = sorted((x for x in layers if x.n_bytes), key=lambda x: (-x.n_bytes, x.number))
    chosen = sorted(heavy[:MOST_BARS], key=lambda x: x.number)
    if not chosen:
        return ""
    rest = heavy[MOST_BARS:]
    prefix = _shared_prefix(layers)
    names = [words.plain(x.name.removeprefix(prefix), 44) for x in chosen]
    rows = [(name, x.stored, x.float_bytes) for name, x in zip(names, chosen, strict=True)]
    if rest:
        total = {k: sum(x.stored.get(k, 0) for x in rest) for k in kinds}
        rows.append((f"{len(rest)} more layers", total, sum(x.float_bytes for x in rest)))
    height = 16 * len(rows) + 40
    made = figure(WIDE, height)
    axes = made.add_axes((0.27, 30 / height, 0.71, 1 - 36 / height))
    places = range(len(rows))
    if any(row[2] for row in rows):
        axes.barh(places, [row[2] for row in rows], 0.78, color=COLORS["line"], zorder=1)
    left = [0.0] * len(rows)
    for kind in kinds:
        widths = [row[1].get(kind, 0) for row in rows]
        color = COLORS[kind_color(kind, kinds)]
        axes.barh(places, widths, 0.78, left=left, color=color, zorder=2)
        left = [a + b for a, b in zip(left, widths, strict=True)]
    axes.set_yticks(list(places), [row[0] for row in rows])
    axes.tick_params(axis="y", labelsize=9, labelcolor=COLORS["text"])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.spines["bottom"].set_visible(False)
    axes.grid(axis="x")
    axes.set_axisbelow(True)
    axes.xaxis.set_major_formatter(lambda value, _: words.size(value) if value else "0")
    axes.locator_params(axis="x", nbins=8)
    return svg(made, "sizes", "Bytes of each layer by how they are stored")


def kind_color(kind: str, kinds: Sequence[str]) -> str:
    """Return the name of the colour of a kind of storage: float is grey, the others in order."""
    if kind.startswith("float32"):
        return "float"
    others = [k for k in kinds if not k.startswith("float32")]
    return PALETTE[others.index(kind) % len(PALETTE)]


def curve(values: Sequence[tuple[float, float]], name: str) -> str:
    """Return a sample that is a vector as a line, from smallest to largest in each piece."""
    made = figure(160, 72)
    axes = made.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    places = range(len(values))
    if all(low == high for low, high in values):
        axes.plot(places, [high for _, high in values], color=COLORS["int"], linewidth=1)
    else:
        lows, highs = [v[0] for v in values], [v[1] for v in values]
        axes.fill_between(places, lows, highs, color=COLORS["int"], linewidth=0.5)
    return svg(made, name, "The values of the sample")
