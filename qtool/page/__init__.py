"""The page of `qtool report`: one HTML file that is complete in itself.

Numbers come from qtool.stages.report, figures from matplotlib, and what surrounds them from
page.html through Jinja, which escapes every name that a model brings along.
"""

from __future__ import annotations

import base64
import hashlib
import re
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from qtool.page.svg import missing

if TYPE_CHECKING:
    from qtool.page.subject import Page

FOLDER = Path(__file__).parent
LIBRARIES = ("jinja2", "matplotlib")


def check_libraries() -> None:
    """Check that what the page is made with is installed.

    Raises:
        QtoolError: something is not; names the command that installs it.
    """
    for name in LIBRARIES:
        if find_spec(name) is None:
            raise missing(ImportError(name=name))


def render(page: Page) -> str:
    """Return the page as HTML; its bytes depend on what it says alone."""
    from jinja2 import Environment, StrictUndefined

    from qtool.page.content import context

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    template = environment.from_string((FOLDER / "page.html").read_text(encoding="utf-8"))
    script = _dense((FOLDER / "page.js").read_text(encoding="utf-8"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    text = template.render(
        context(page),
        style=_safe((FOLDER / "page.css").read_text(encoding="utf-8")),
        script_text=_safe(script),
        script_hash=f"sha256-{digest}",
    )
    return _dense(text)


def _dense(text: str) -> str:
    """Return a text without its empty lines."""
    return re.sub(r"\n\s*\n+", "\n", text)


def _safe(text: str) -> object:
    """Return qtool's own text, which is not to be escaped."""
    from markupsafe import Markup

    return Markup(text)
