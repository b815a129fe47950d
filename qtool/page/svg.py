"""matplotlib figures as small SVG text that takes its colours and font from the page.

The bytes depend on the figure and on matplotlib's version alone.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING, Any

from qtool.errors import QtoolError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# What figures are drawn with -> the page's CSS variable that takes its place, so that the same
# figure does for light, dark and paper.
COLORS = {
    "text": "#010101",
    "muted": "#020202",
    "line": "#030303",
    "float": "#040404",
    "int": "#050505",
    "bad": "#060606",
    "good": "#070707",
    "weights": "#080808",
    "card": "#090909",
    "int-soft": "#0a0a0a",
}
POINTS_PER_INCH = 72
FONT_SIZE = 9.5
_STYLE = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "qtool",
    "font.size": FONT_SIZE,
    "path.simplify": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": COLORS["line"],
    "axes.facecolor": "none",
    "axes.labelcolor": COLORS["muted"],
    "axes.linewidth": 1,
    "xtick.color": COLORS["line"],
    "ytick.color": COLORS["line"],
    "xtick.labelcolor": COLORS["muted"],
    "ytick.labelcolor": COLORS["muted"],
    "text.color": COLORS["text"],
    "xtick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.major.size": 0,
    "ytick.minor.size": 0,
    "grid.color": COLORS["line"],
    "grid.linewidth": 0.7,
    "axes.formatter.useoffset": False,
    "axes.unicode_minus": True,
    "text.usetex": False,
    "text.parse_math": False,
}


def figure(width: float, height: float) -> Any:
    """Return an empty matplotlib Figure of width x height CSS pixels.

    Raises:
        QtoolError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise missing(error) from error
    # One point of the figure is one CSS pixel of the page.
    return Figure((width / POINTS_PER_INCH, height / POINTS_PER_INCH), frameon=False)


def missing(error: ImportError) -> QtoolError:
    """Return the error that names the extra to install."""
    name = (error.name or "matplotlib").split(".")[0]
    return QtoolError(f"a report needs {name}: pip install 'qtool[report]'")


def style() -> Any:
    """Return the context in which figures are made and written."""
    try:
        import matplotlib as mpl
    except ImportError as error:
        raise missing(error) from error
    return mpl.rc_context(_STYLE)


def svg(made: Figure, name: str, label: str, tips: Mapping[str, str] | None = None) -> str:
    """Return the figure as an <svg> element.

    name: makes its ids unique in the page. label: what a screen reader says. tips: the text that
    shows when the pointer is on the link to #id.
    """
    file = io.BytesIO()
    made.savefig(file, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    text = file.getvalue().decode("utf-8")
    return _compact(text[text.index("<svg") :], name, label, tips or {})


def _compact(text: str, name: str, label: str, tips: Mapping[str, str]) -> str:
    """Return matplotlib's SVG without what a page does not need, in the page's colours."""
    text = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", text, flags=re.DOTALL)
    used = set(re.findall(r"url\(#([^)]+)\)", text)) | set(re.findall(r'href="#([^"]+)"', text))
    names = {old: f"{name}-{n}" for n, old in enumerate(sorted(used - set(tips)))}

    def identified(found: re.Match[str]) -> str:
        return f' id="{names[found[1]]}"' if found[1] in names else ""

    text = re.sub(r' id="([^"]*)"', identified, text)
    text = re.sub(r"url\(#([^)]+)\)", lambda m: f"url(#{names[m[1]]})", text)
    text = re.sub(r'(?:xlink:)?href="#([^"]+)"', lambda m: f'href="#{names.get(m[1], m[1])}"', text)
    text = text.replace(' target="_blank"', "")
    for variable, color in COLORS.items():
        text = text.replace(color, f"var(--{variable})")
    text = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", text)
    text = re.sub(r"font-family: [^;\"]*;? ?", "", text)
    text = re.sub(r"<[^>]*>", lambda m: _rounded(m[0]), text)
    text = re.sub(r' d="([^"]*)"', lambda m: f' d="{_path(m[1])}"', text)
    text = re.sub(r' transform="rotate\(-?0 [^"]*\)"', "", text)
    text = re.sub(r"\s*\n\s*", " ", text)
    text = re.sub(r"> <", "><", text)
    text = re.sub(r"<g/>|<g></g>", "", text)
    text = re.sub(r"stroke-linejoin: \w+;? ?|stroke-linecap: \w+;? ?", "", text)
    for target, tip in tips.items():
        link = f'<a href="#{target}"'
        text = text.replace(f"{link}>", f'{link} tabindex="-1"><title>{escape(tip)}</title>')
    head = re.search(r'viewBox="([^"]*)"', text)
    box = head[1] if head else "0 0 1 1"
    body = text[text.index(">") + 1 :]
    return f'<svg viewBox="{box}" role="img" aria-label="{escape(label)}">{body}'.strip()


def _rounded(tag: str) -> str:
    """Return a tag with its numbers in tenths of a pixel."""
    return re.sub(
        r"-?\d+\.\d{2,}(?:e-?\d+)?", lambda m: f"{float(m[0]):.1f}".removesuffix(".0"), tag
    )


def _path(text: str) -> str:
    """Return a path's steps, with H and V where they go along an axis."""
    found = re.findall(r"([MLz])\s*(?:(-?[\d.]+) (-?[\d.]+))?", text)
    if "".join(re.findall(r"[a-zA-Z]", text)) != "".join(step for step, _, _ in found):
        return " ".join(text.split())
    steps, before = [], ("", "")
    for step, x, y in found:
        if step == "L" and x == before[0]:
            steps.append(f"V{y}")
        elif step == "L" and y == before[1]:
            steps.append(f"H{x}")
        else:
            steps.append(f"{step}{x} {y}".strip())
        before = (x, y)
    return "".join(steps)
