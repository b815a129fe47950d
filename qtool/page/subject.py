"""What a page is about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qtool.page.curve import Curve
from qtool.stages.report import ModelReport


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
