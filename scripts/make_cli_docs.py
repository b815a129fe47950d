#!/usr/bin/env python3
"""Writes docs/cli.md from the commands' own help; a test fails when the page is out of date."""

from __future__ import annotations

from pathlib import Path

import click

from qtool.cli.main import COMMANDS, qtool

PAGE = Path(__file__).resolve().parent.parent / "docs" / "cli.md"
INTRODUCTION = """\
# The command line

`scripts/make_cli_docs.py` writes this page from `qtool --help`; edit the help, not the page.

`--input/-i` and `--output/-o` mean the same everywhere. The format follows the ending, `.onnx` or
`.qtm`; `-` is standard input or output and then means `.qtm` bytes. Standard output carries only
the result: a model under `-o -`, or what `--json` prints. All else goes to standard error.

| exit code | meaning |
| --- | --- |
| 0 | done |
| 1 | could not: the one line on standard error says why and what to do |
| 2 | wrong usage |
| 3 | checked, and the answer is no: a gate such as `--max-drop` was not met |
| 130 | interrupted; nothing was written |

Completion of commands and options: put one of these into the start-up file of the shell.

    eval "$(_QTOOL_COMPLETE=bash_source qtool)"     # ~/.bashrc
    eval "$(_QTOOL_COMPLETE=zsh_source qtool)"      # ~/.zshrc
    _QTOOL_COMPLETE=fish_source qtool | source      # ~/.config/fish/config.fish
"""


def page() -> str:
    """Return what docs/cli.md must hold."""
    parts = [INTRODUCTION, section("qtool", qtool, None)]
    with click.Context(qtool, info_name="qtool") as parent:
        for name in COMMANDS:
            command = qtool.get_command(parent, name)
            assert command is not None
            parts.append(section(f"qtool {name}", command, parent))
    return "\n".join(parts)


def section(title: str, command: click.Command, parent: click.Context | None) -> str:
    """Return the help of one command under a heading."""
    context = click.Context(
        command, info_name=title.split()[-1], parent=parent, terminal_width=94, max_content_width=94
    )
    return f"## {title}\n\n```\n{command.get_help(context)}\n```\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
