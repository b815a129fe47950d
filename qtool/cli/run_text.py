"""How `qtool run` prints the best classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import zip_longest

import click

from qtool.cli import options
from qtool.stages.run import Guess, Outputs

Guesses = Mapping[str, Sequence[Sequence[Guess]]]  # "model" and "reference" -> sample -> best


def show(outputs: Outputs, guesses: Guesses, as_json: bool) -> None:
    """Print one JSON object, or the classes of each sample in columns side by side."""
    if as_json:
        found = outputs.to_json()
        if guesses:
            found["top"] = [
                {
                    "sample": where,
                    **{what: list(map(asdict, of[i])) for what, of in guesses.items()},
                }
                for i, where in enumerate(outputs.where)
            ]
        options.print_json(found)
        return
    for i, where in enumerate(outputs.where if guesses else ()):
        click.echo(where)
        for line in _columns({what: of[i] for what, of in guesses.items()}):
            click.echo(f"  {line}")


def _columns(guesses: Mapping[str, Sequence[Guess]]) -> list[str]:
    columns = [
        [what, *(f"{guess.score:10.4f}  {guess.name}" for guess in found)]
        for what, found in guesses.items()
    ]
    if len(columns) == 1:
        return columns[0][1:]
    widths = [max(map(len, column)) for column in columns]
    lines = zip_longest(*columns, fillvalue="")
    return [
        "   ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines
    ]
