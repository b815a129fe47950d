"""The figure of bench_accuracy.py: changed answers and drop of each model, by each tool."""

from __future__ import annotations

import io
from typing import Any

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot

SVG = {"svg.fonttype": "none", "svg.hashsalt": "qtool", "font.size": 10}
STYLES: dict[str, tuple[str, str]] = {  # way -> marker, colour
    "qtool": ("D", "#c4572b"),
    "qtool plain": ("d", "#e3a285"),
    "onnxruntime MinMax": ("o", "#4a78b5"),
    "onnxruntime Percentile": ("s", "#8fb0d8"),
    "NNCF fast": ("v", "#3f8f5f"),
    "NNCF full": ("^", "#8cc5a2"),
    "onnxsim": ("P", "#8a6bb1"),
    "onnxsim full graph": ("X", "#bfa8d8"),
}


def plot(figures: list[dict[str, Any]]) -> str:
    """Return SVG text: on the left the share of changed answers, on the right the drop.

    Models without an agreement of classes, and tools that failed, have no marks.
    """
    shown = [f for f in figures if f["way"] in STYLES and "failed" not in f]
    shown = [f for f in shown if f["model"] != "autoencoder"]  # an error, not classes
    names = list(dict.fromkeys(f["model"] for f in shown))
    with matplotlib.rc_context(SVG):
        figure, (changed, drop) = pyplot.subplots(
            1, 2, figsize=(10, 0.6 * len(names) + 1.9), sharey=True, layout="constrained"
        )
        for i, (way, (marker, color)) in enumerate(STYLES.items()):
            mine = [f for f in shown if f["way"] == way]
            height = [names.index(f["model"]) + (i - (len(STYLES) - 1) / 2) * 0.1 for f in mine]
            dot = {"marker": marker, "color": color, "linestyle": "none", "markersize": 6}
            changed.plot([100 - f["agreement"] for f in mine], height, label=way, **dot)
            drops = [f["drop"] for f in mine]
            ends = [
                [d - f["drop_ci95"][0] for d, f in zip(drops, mine, strict=True)],
                [f["drop_ci95"][1] - d for d, f in zip(drops, mine, strict=True)],
            ]
            drop.errorbar(drops, height, xerr=ends, elinewidth=1, **dot)
        changed.set_xscale("symlog", linthresh=0.1, linscale=0.4)
        changed.set_xlim(-0.02, 20)
        ticks = [0, 0.1, 0.3, 1, 3, 10]
        changed.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        changed.set_xlabel("images with another first class, %")
        drop.set_xlabel("drop of top-1 in points, 95 % interval")
        changed.set_yticks(range(len(names)), names)
        changed.invert_yaxis()
        for axes in (changed, drop):
            axes.grid(axis="x", color="#ddd")
            axes.set_axisbelow(True)
            axes.spines[["top", "right", "left"]].set_visible(False)
            axes.tick_params(length=0)
            for edge in range(len(names) - 1):
                axes.axhline(edge + 0.5, color="#eee", linewidth=1)
        drop.axvline(0, color="#888", linewidth=1)
        figure.legend(loc="outside upper center", ncols=4, frameon=False)
        return svg_text(figure)


def svg_text(figure: Any) -> str:
    """Return a finished figure as SVG, the same each time."""
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    pyplot.close(figure)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines()) + "\n"
