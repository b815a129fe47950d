from __future__ import annotations

import re
import shlex
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import click
import pytest

from qtool.cli.main import COMMANDS, qtool

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("sample_models/*.md")])
COMMAND_LINE = re.compile(r"(?:^|\| |\$ |\t)(qtool [a-z].*?)(?=$| \| | #| > )", re.MULTILINE)


def command_lines(page: Path) -> list[str]:
    """Return the commands in a page's code blocks, continued lines joined."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    fenced = re.findall(r"^```[a-z]*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    indented = re.findall(r"(?:^(?: {4}|\t).*\n)+", text, re.MULTILINE)
    code = "\n".join(re.sub(r"^(?: {4}|\t)+", "", block, flags=re.M) for block in fenced + indented)
    return COMMAND_LINE.findall(code)


def test_cli_page_is_what_the_help_says():
    spec = spec_from_file_location("make_cli_docs", ROOT / "scripts" / "make_cli_docs.py")
    script = module_from_spec(spec)
    spec.loader.exec_module(script)

    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    if f"click {script.click_release()} " not in page:
        pytest.skip("another release of click laid the page out")

    assert page == script.page(), "run `make docs`"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_to_files_lead_somewhere(page):
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8"))

    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_the_readme_leads_to_every_page(page):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")

    assert page.name == "README.md" or f"]({page.relative_to(ROOT)})" in readme


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_commands_in_the_documentation_can_be_typed(page):
    context = click.Context(qtool, info_name="qtool")

    for line in command_lines(page):
        name, *words = shlex.split(line)[1:]
        assert name in COMMANDS, line
        command = qtool.get_command(context, name)
        known = {text for p in command.get_params(context) for text in (*p.opts, *p.secondary_opts)}
        typed = {word.split("=")[0] for word in words if re.match(r"--?[a-z]", word)}
        assert typed <= known, line


def test_pages_that_the_code_cites_exist():
    sources = [
        path
        for part in ("qtool", "scripts", "tests")
        for path in (ROOT / part).rglob("*")
        if path.suffix in {".py", ".h", ".cpp"}
    ]

    cited = {
        page
        for path in sources
        for page in re.findall(r"docs/[a-z-]+\.md", path.read_text(encoding="utf-8"))
    }

    assert [page for page in sorted(cited) if not (ROOT / page).exists()] == []
