"""The options that commands share: one word, one meaning, everywhere."""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Callable
from importlib import import_module
from typing import Any, TypeVar

import click

from qtool.errors import ModelError, UsageError
from qtool.registry import lookup

F = TypeVar("F", bound=Callable[..., Any])
MAX_DIM = 2**31 - 1
MAX_LIST = 1 << 20  # characters read of a file of patterns


class Registered(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.4
    """One of a registry's names; the registry's module is imported only when it is needed."""

    name = "name"

    def __init__(self, module: str, registry: str, kind: str) -> None:
        self._module, self._registry, self._kind = module, registry, kind

    def names(self) -> list[str]:
        """Return the names, in the order of the registry."""
        return list(getattr(import_module(self._module), self._registry))

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        """Return what --help shows for the value."""
        return f"[{'|'.join(self.names())}]"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the name, or fail with the closest one."""
        lookup(dict.fromkeys(self.names()), value, self._kind)
        return value


input_option = click.option(
    "--input", "-i", "input_", metavar="MODEL", required=True,
    help="Model to read: .onnx, .qtm, or - for .qtm on standard input.",
)  # fmt: skip
output_option = click.option(
    "--output", "-o", metavar="MODEL", required=True, callback=lambda _c, _p, v: check_ending(v),
    help="Model to write: .onnx, .qtm, or - for .qtm on standard output.",
)  # fmt: skip
statistics_output_option = click.option(
    "--output", "-o", metavar="QTM", required=True,
    callback=lambda _c, _p, v: check_keeps_statistics(v),
    help="Model to write: .qtm, or - for standard output.",
)  # fmt: skip
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
threads_option = click.option(
    "--threads", type=click.IntRange(1), default=None, metavar="N",
    help="Threads to use. The result is the same for any number.  [default: all cores]",
)  # fmt: skip
seed_option = click.option(
    "--seed", type=int, default=0, show_default=True, help="Seed of everything random."
)


def check_ending(path: str) -> str:
    """Return path, or fail before anything is read when no model can be written there."""
    from qtool.formats import check_output

    check_output(path)
    return path


def check_keeps_statistics(path: str) -> str:
    """Return path, or fail when it is not the name of a file that can hold statistics."""
    if check_ending(path).lower().endswith(".onnx"):
        raise UsageError(f"{path}: an ONNX file cannot hold statistics; write a .qtm")
    return path


def verbosity_options(command: F) -> F:
    """Add -q and -v, and send what the library says to standard error."""
    for flag, name, text in (
        ("-q", "--quiet", "Only warnings and errors."),
        ("-v", "--verbose", "Everything, also what only developers need."),
    ):
        command = click.option(
            flag,
            name,
            is_flag=True,
            expose_value=False,
            callback=_set_level,
            is_eager=True,
            help=text,
        )(command)
    return command


def _set_level(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    from qtool.cli.console import listen

    level = {"quiet": logging.WARNING, "verbose": logging.DEBUG}[str(param.name)]
    if value:
        ctx.meta["qtool.level"] = level
    listen(ctx.meta.get("qtool.level", logging.INFO))


def data_options(command: F) -> F:
    """Add the options that say which samples to use: those of qtool.data.open_samples."""
    for option in reversed((
        click.option(
            "--data", metavar="DATA",
            help="Samples: .npz, .npy, a folder of arrays or images, a .txt list of images, "
            "test_data_set folders, or module:function; 'NAME[0:100]' takes these only, "
            "'NAME[::4]' every fourth, 'NAME[!::4]' the others.",
        ),
        click.option(
            "--preprocess", metavar="NAME|FILE",
            help="Preset (imagenet, tf, caffe, unit, none) or a .toml/.json file.  "
            "[default: what the model carries]",
        ),
        click.option("--samples", type=click.IntRange(1), metavar="N", help="Use N samples only."),
        click.option("--shuffle", is_flag=True, help="Take the samples in the order of --seed."),
        click.option("--random", is_flag=True, help="Use random samples; the result says so."),
        click.option(
            "--label-key", default="y", show_default=True, metavar="KEY", help="Array of labels."
        ),
        seed_option,
    )):  # fmt: skip
        command = option(command)
    return command


data_free_option = click.option(
    "--data-free", is_flag=True,
    help="No samples: make pictures up, and fit what layers see to the batch-norm statistics that "
    "freeze kept. Needs --preprocess.",
)  # fmt: skip


def selection_options(verb: str) -> Callable[[F], F]:
    """Return what adds --only and --exclude; verb says what the command does to the nodes."""
    only = click.option(
        "--only", multiple=True, metavar="PATTERN",
        help=f"{verb} these nodes only: glob, re:REGEX, op type, FROM..TO. Repeatable.",
    )  # fmt: skip
    exclude = click.option(
        "--exclude", multiple=True, metavar="PATTERN", help="Leave these nodes as they are."
    )
    return lambda command: only(exclude(command))


def load_statistics(path: str | None) -> Any:
    """Return the statistics of a calibrated model, or None without a path."""
    from qtool import formats

    if path is None:
        return None
    found = formats.load(path).statistics
    if found is None:
        raise ModelError(f"{path} holds no statistics; give what qtool calibrate wrote")
    return found


DATA_DEFAULTS = {
    "data": None, "preprocess": None, "samples": None, "shuffle": False, "random": False,
    "label_key": "y", "seed": 0,
}  # fmt: skip
DATA_KEYS = tuple(DATA_DEFAULTS)


def unusual(given: dict[str, Any]) -> dict[str, Any]:
    """Return what data_options gave, without what is their default."""
    usual = {**DATA_DEFAULTS, "data_free": False}
    return {key: given[key] for key in usual if key in given and given[key] != usual[key]}


def open_data(model: Any, given: dict[str, Any], *, labels: bool = False) -> Any:
    """Take what data_options gave out of `given`; return the Samples, or None without any."""
    from qtool.data import open_samples

    chosen = {key: given.pop(key) for key in DATA_KEYS}
    chosen["data_free"] = given.pop("data_free", False)
    if chosen["data"] is None and not chosen["random"] and not chosen["data_free"]:
        alone = [f"--{key}" for key in ("preprocess", "samples", "shuffle") if chosen[key]]
        if alone:
            raise UsageError(f"{alone[0]} is about samples: give them with --data")
        return None
    if chosen["preprocess"] is None:
        chosen["preprocess"] = model.preprocess
    return open_samples(chosen.pop("data"), model.inputs(), labels=labels, **chosen)


def require_data(given: dict[str, Any]) -> None:
    """Fail when what data_options gave names no samples."""
    if given["data"] is None and not given["random"] and not given.get("data_free"):
        raise UsageError("no samples: give --data, or --random to try without")


def percent(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    """Return "95%" or "95" as 95.0."""
    if value is None:
        return None
    try:
        number = float(value.removesuffix("%"))
    except ValueError:
        number = -1.0
    if not 0 <= number <= 100:
        raise click.BadParameter(f"{value!r} is no percentage, such as 95%", ctx, param)
    return number


def finite(ctx: click.Context, param: click.Parameter, value: float | None) -> float | None:
    """Return a number, or fail for nan and inf, which a range lets through."""
    if value is not None and not math.isfinite(value):
        raise click.BadParameter(f"{value} is no finite number", ctx, param)
    return value


def check_json(as_json: bool, output: str | None) -> None:
    """Fail when the JSON and the model would both go to standard output."""
    if as_json and output == "-":
        raise click.UsageError("--json and --output - both need standard output; choose one")


def sizes(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> dict[str, int]:
    """Return ("batch=1", ...) as {"batch": 1, ...}."""
    found: dict[str, int] = {}
    for text in value:
        name, _, number = text.rpartition("=")
        if not name or not re.fullmatch("[0-9]{1,10}", number):
            raise click.BadParameter(f"{text!r} is not NAME=SIZE, such as batch=1", ctx, param)
        if not 1 <= int(number) <= MAX_DIM:
            raise click.BadParameter(f"{text!r}: a size is 1 to {MAX_DIM}", ctx, param)
        if name in found:
            raise click.BadParameter(f"{name!r} is given twice", ctx, param)
        found[name] = int(number)
    return found


def counts(ctx: click.Context, param: click.Parameter, value: str) -> list[int]:
    """Return "1,2" as [1, 2]."""
    parts = value.split(",")
    if not all(part.isdecimal() and int(part) for part in parts):
        raise click.BadParameter(f"{value!r} is no list of numbers, such as 1,2", ctx, param)
    return list(dict.fromkeys(map(int, parts)))


def duration(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    """Return "10m" as 600.0 seconds."""
    if value is None:
        return None
    match = re.fullmatch(r"(\d{1,6}(?:\.\d{1,3})?)([smh]?)", value)
    if match is None or float(match[1]) == 0:
        raise click.BadParameter(f"{value!r} is no time, such as 90s, 10m or 2h", ctx, param)
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]


def lines(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...]:
    """Return the lines of the files of this name, without empty ones and # comments."""
    found: list[str] = []
    for path in value:
        try:
            with open(path, encoding="utf-8") as file:
                text = file.read(MAX_LIST)
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is no UTF-8 text"
            raise UsageError(f"cannot read {path}: {reason}") from error
        kept = [line.strip() for line in text.splitlines()]
        found += [line for line in kept if line and not line.startswith("#")]
    return tuple(found)


def print_json(value: Any) -> None:
    """Write one JSON object to standard output; what is not a finite number is null."""
    from qtool.stages._json import finite

    click.echo(json.dumps(finite(value), indent=2))
