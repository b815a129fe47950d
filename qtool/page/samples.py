"""The samples on which the model differs most, with their pictures."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

from markupsafe import Markup

from qtool.page import figures, words
from qtool.page.subject import Page
from qtool.stages.report import WorstSample

MARKS = {
    "lost": ("bad", "only float right"),
    "changed": ("plain", "another class"),
    "won": ("good", "only model right"),
    "same": ("plain", "same class"),
}


def worst(page: Page) -> dict[str, Any] | None:
    """Return the section of the worst samples, or None where there are none."""
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
