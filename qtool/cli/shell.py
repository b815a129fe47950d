"""A model's history as commands to paste into a shell."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click

SAMPLED = ("calibrate",)  # commands that need the samples again
MADE = {"random": "--random", "synthetic": "--data-free"}  # sources that need no samples
MEASURED = ("compress",)  # and those that need the samples that measured


def script(
    history: Sequence[Mapping[str, Any]], preprocess: Mapping[str, Any] | None, output: str
) -> str:
    """Return the commands that make the model again, "" without a history.

    The history names neither the files nor the samples that it began with: these are variables
    at the top.
    """
    if not history:
        return ""
    sampled = [s for s in history if s["command"] in SAMPLED or "source" in s["options"]]
    drawn = any(step["options"].get("source") not in MADE for step in sampled)
    measured = any(step["command"] in MEASURED for step in history)
    lines = ["MODEL=model.onnx  # what it began with"]
    if drawn:
        lines.append("DATA=calibration/  # the samples of the calibration")
    if measured:
        lines.append("EVALUATION=evaluation/  # the samples that drops were measured on")
    if (drawn or measured) and preprocess:
        text = json.dumps(dict(preprocess), sort_keys=True)
        lines += ["cat > preprocess.json <<'END'", text, "END"]
    lines.append("")
    before = '"$MODEL"'
    for number, step in enumerate(history, 1):
        after = shlex.quote(output) if number == len(history) else f"step{number}.qtm"
        typed = list(_typed(step["command"], step["options"], bool(preprocess)))
        unknown = [word for word in typed if word.startswith("#")]
        words = ["qtool", shlex.quote(step["command"]), "--input", before]
        words += [word for word in typed if word not in unknown]
        lines.append(" ".join([*words, "--output", after]) + "".join(f"  {w}" for w in unknown))
        before = after
    return "\n".join(lines) + "\n"


def _typed(command: str, given: Mapping[str, Any], preprocessed: bool) -> Iterator[str]:
    """Yield the words of a step's options."""
    rest = dict(given)
    if command in SAMPLED or "source" in rest:
        source = rest.pop("source", "samples")
        yield MADE.get(source, '--data "$DATA"')
        if preprocessed and source != "random":
            yield "--preprocess preprocess.json"
    if command in MEASURED:
        yield '--data "$EVALUATION"'
        if rest.pop("calibration", False):
            yield '--calibration "$DATA"'
        if preprocessed:
            yield "--preprocess preprocess.json"
    known = {_word(param): param for param in _params(command)}
    known |= {param.name: param for param in _params(command)}
    for name, value in rest.items():
        param = known.get(name)
        if isinstance(param, click.Option):
            yield from _option(param, value)
        else:
            yield " ".join(f"# {name}={json.dumps(value)}".split())


def _word(param: click.Parameter) -> str:
    """Return what a parameter is called on the command line, as a name."""
    return param.opts[0].lstrip("-").replace("-", "_")


def _params(command: str) -> list[click.Parameter]:
    from qtool.cli.main import COMMANDS, qtool

    if command not in COMMANDS:
        return []
    context = click.Context(qtool)
    found = qtool.get_command(context, command)
    return [] if found is None else found.params


def _option(param: click.Option, value: Any) -> Iterator[str]:
    if isinstance(value, bool):
        if value or param.secondary_opts:
            yield param.opts[0] if value else param.secondary_opts[0]
        return
    if isinstance(value, Mapping):
        value = [f"{key}={one}" for key, one in value.items()]
    for one in value if isinstance(value, (list, tuple)) else [value]:
        yield f"{param.opts[0]} {shlex.quote(str(one))}"
