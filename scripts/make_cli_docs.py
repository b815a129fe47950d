#!/usr/bin/env python3
"""Writes docs/cli.md from the commands' own help; a test fails when the page is out of date."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import click

from qtool.cli.main import COMMANDS, qtool

PAGE = Path(__file__).resolve().parent.parent / "docs" / "cli.md"
INTRODUCTION = """\
# The command line

`make docs` writes this page from the commands' help, as click {click} lays it out; edit the help.

`--input/-i` and `--output/-o` mean the same everywhere. The format follows the ending, `.onnx` or
`.qtm`; `-` is standard input or output and then means `.qtm` bytes. Standard output carries only
the result: a model under `-o -`, or what `--json` prints. All else goes to standard error.

| exit code | meaning |
| --- | --- |
| 0 | done |
| 1 | could not: the one line on standard error says why and what to do |
| 2 | wrong usage |
| 3 | checked, and the answer is no: a gate such as `--max-drop` was not met |
| 130 | interrupted; nothing was written (143: by SIGTERM) |

Completion of commands and options: put one of these into the start-up file of the shell.

    eval "$(_QTOOL_COMPLETE=bash_source qtool)"     # ~/.bashrc
    eval "$(_QTOOL_COMPLETE=zsh_source qtool)"      # ~/.zshrc
    _QTOOL_COMPLETE=fish_source qtool | source      # ~/.config/fish/config.fish
"""


def click_release() -> str:
    """Return the release of click, without what follows the minor number."""
    return ".".join(version("click").split(".")[:2])


def page() -> str:
    """Return what docs/cli.md must hold."""
    shape = {"terminal_width": 94, "max_content_width": 94} | qtool.context_settings
    group = click.Context(qtool, info_name="qtool", **shape)
    parts = [INTRODUCTION.replace("{click}", click_release()), section("qtool", group)]
    for name in COMMANDS:
        command = qtool.get_command(group, name)
        assert command is not None
        parts.append(section(f"qtool {name}", click.Context(command, group, name)))
    return "\n".join(parts)


def section(title: str, context: click.Context) -> str:
    """Return the help of one command under a heading."""
    return f"## {title}\n\n```\n{context.command.get_help(context)}\n```\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
