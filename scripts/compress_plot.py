#!/usr/bin/env python3
"""Draws what `bench_compress.py curve` printed: size against agreement, beside NNCodec.

    compress_plot.py CURVE.jsonl TARGET.svg

A later line counts more than an earlier one of the same model, tool and size aimed at.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib
from accuracy_plot import SVG, svg_text
from matplotlib import pyplot

STYLES = {"qtool": ("D", "#c4572b"), "nncodec": ("s", "#4a78b5")}
LABELS = {"qtool": "qtool compress", "nncodec": "NNCodec 2.1.3"}


def plot(figures: list[dict[str, Any]]) -> str:
    """Return SVG text: for each model the agreement of files of each size."""
    names = list(dict.fromkeys(f["model"] for f in figures))
    with matplotlib.rc_context(SVG):
        figure, panels = pyplot.subplots(
            1, len(names), figsize=(10, 4), sharey=True, layout="constrained", squeeze=False
        )
        for axes, name in zip(panels[0], names, strict=True):
            for by, (marker, color) in STYLES.items():
                mine = [f for f in figures if (f["model"], f["by"]) == (name, by)]
                mine.sort(key=lambda f: f["bytes"])
                style = {"marker": marker, "color": color, "label": LABELS[by]}
                kilobytes = [f["bytes"] / 1000 for f in mine]
                axes.plot(kilobytes, [f["agreement"] for f in mine], **style)
            axes.set_title(name)
            axes.set_xlabel("packed file, kB")
            axes.grid(color="#ddd")
            axes.set_axisbelow(True)
            axes.spines[["top", "right"]].set_visible(False)
        panels[0][0].set_ylabel("images with the float model's first class, %")
        panels[0][0].legend(loc="lower right", frameon=False)
        return svg_text(figure)


def main() -> None:
    """Draw one file's figures into another."""
    source, target = map(Path, sys.argv[1:])
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for line in source.read_text().splitlines():
        one = json.loads(line)
        if one.get("what") == "curve":
            found[one["model"], one["by"], one.get("target") or one["bytes"]] = one
    target.write_text(plot(list(found.values())))


if __name__ == "__main__":
    main()
