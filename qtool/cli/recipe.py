"""Recipes: the options of a command as a file, to type them once and repeat them anywhere."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from qtool.cli.options import unusual
from qtool.errors import DataError
from qtool.registry import lookup

if TYPE_CHECKING:
    from qtool.model import Model

F = TypeVar("F", bound=Callable[..., Any])
log = logging.getLogger("qtool")

FORMAT, VERSION = "qtool recipe", 1
MAX_BYTES = 1 << 22
SHOWN = 80  # characters of a decision in a message
NOT_IN_RECIPES = ("input_", "output", "replayed", "save_recipe", "statistics", "as_json", "threads")


def recipe_options(command: F) -> F:
    """Add --recipe and --save-recipe."""
    command = click.option(
        "--save-recipe", metavar="JSON", help="Write the options to this file, for --recipe."
    )(command)
    return click.option(
        "--recipe", "replayed", metavar="JSON", is_eager=True,
        callback=lambda ctx, _param, path: use(ctx, path),
        help="Take the options from this file; those that are typed beside it win.",
    )(command)  # fmt: skip


def use(ctx: click.Context, path: str | None) -> dict[str, Any] | None:
    """Return the recipe in a file, after making its options the defaults of the command.

    Raises:
        DataError: the file cannot be read, or is no recipe of this command.
    """
    if path is None:
        return None
    found = load(path, str(ctx.info_name))
    options = ctx.command.params
    known = {o.name: o for o in options if isinstance(o, click.Option) and o.expose_value}
    names = {str(name): name for name in known if name not in NOT_IN_RECIPES}
    for name, value in found["options"].items():
        lookup(names, name, f"option in {path}")
        if not _fits(value, known[name]):
            raise DataError(f"{path}: option {name!r} cannot be {json.dumps(value)[:60]}")
    ctx.default_map = found["options"]
    return found


def load(path: str, command: str) -> dict[str, Any]:
    """Return the recipe in a file.

    Raises:
        DataError: the file cannot be read, or is no recipe of this command.
    """
    try:
        with open(path, encoding="utf-8") as file:
            found = json.loads(file.read(MAX_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or f"it is no JSON: {error}"
        raise DataError(f"cannot read {path}: {reason}") from error
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise DataError(f'{path} is no recipe: it lacks "format": "{FORMAT}"')
    if found.get("command") != command:
        raise DataError(f"{path} is a recipe of {found.get('command')!r}, not of {command!r}")
    if found.get("version") != VERSION or not isinstance(found.get("options"), dict):
        raise DataError(f"{path}: this qtool reads recipes of version {VERSION}, with options")
    if not isinstance(found.get("decided", {}), dict):
        raise DataError(f"{path}: 'decided' is no object")
    return found


def finish(
    replayed: dict[str, Any] | None, path: str | None, *, model: Model, result: Model, samples: Any
) -> None:
    """Compare a result with the recipe that it follows; write the recipe that makes it.

    samples: the values of data_options; the other options are in the result's history.
    """
    if replayed is None and path is None:
        return
    from qtool.formats.atomic import replacing
    from qtool.model import fingerprint

    step = result.history[-1]
    hashes = {"model": fingerprint(model), "result": fingerprint(result)}
    if replayed is not None:
        _compare(replayed, hashes, step.decided)
    if path is not None:
        sampling = unusual(samples)
        head = {"format": FORMAT, "version": VERSION, "command": step.command}
        options = {**step.options, **sampling}
        whole = {**head, "options": options, "decided": dict(step.decided), **hashes}
        with replacing(Path(path)) as file:
            file.write((json.dumps(whole, indent=1) + "\n").encode())


def _compare(replayed: dict[str, Any], hashes: dict[str, str], decided: Mapping[str, Any]) -> None:
    if replayed.get("model") != hashes["model"]:
        log.info("the recipe was made with another model")
    elif replayed.get("result") == hashes["result"]:
        log.info("the result is that of the recipe")
    else:
        log.warning("the result is not that of the recipe: other samples, options or versions")
    before = replayed.get("decided", {})
    for about in sorted(before.keys() & decided.keys()):
        if before[about] != decided[about]:
            now, then = _short(decided[about]), _short(before[about])
            log.info("%s: %s; the recipe's: %s", about, now, then)


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def _fits(value: Any, option: click.Option) -> bool:
    """Tell whether a JSON value is of the kind that an option takes; click checks the rest."""
    if option.multiple:
        return isinstance(value, list) and all(isinstance(item, str) for item in value)
    if isinstance(option.type, click.types.BoolParamType):
        return isinstance(value, bool)
    kind = int if isinstance(option.type, click.types.IntParamType) else str
    return isinstance(value, kind) and not isinstance(value, bool)
