"""What inspect says about why and how much: the sensitivity of layers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click

from qtool.cli import options
from qtool.errors import UsageError

if TYPE_CHECKING:
    from qtool.model import Model
    from qtool.stages.sensitivity import LayerSensitivity, Sensitivity

HEAD = (
    "noise ", "layer", "op", "weights reads gives", "alone ", "measured ", "at outputs ",
    "cumulative ", "measured ", "cause",
)  # fmt: skip


def check(sensitivity: bool, given: Mapping[str, Any], others: bool) -> None:
    """Fail on options that go only with --sensitivity, or not with it."""
    if sensitivity and others:
        raise click.UsageError("--sensitivity goes without --tensor, --tensors and --diff")
    for name in ("reference", "data", "random", "exclude_file"):
        if given[name] and not sensitivity:
            option = "--exclude-from" if name == "exclude_file" else f"--{name}"
            raise click.UsageError(f"{option} goes with --sensitivity")


def show_sensitivity(model: Model, given: dict[str, Any], as_json: bool) -> None:
    """Write the sensitivity of a model's layers to standard output."""
    from qtool import formats
    from qtool.cli.console import track
    from qtool.stages.evaluate import differ
    from qtool.stages.sensitivity import sensitivity

    path, reference, threads = (given.pop(k) for k in ("exclude_file", "reference", "threads"))
    other = None if reference is None else formats.load(reference)
    stored = model.preprocess or (None if other is None else other.preprocess)
    if given["preprocess"] is None and not differ(model.preprocess, stored):
        given["preprocess"] = stored
    data = options.open_data(model, given)
    found = sensitivity(model, reference=other, data=data, threads=threads, progress=track)
    if path is not None:
        write_text(path, found.exclude_file())
    if as_json:
        options.print_json(found.to_json())
        return
    for line in lines(found):
        click.echo(line)


def lines(found: Sensitivity) -> Iterator[str]:
    """Yield the lines of a sensitivity: a table, the noisiest layer first, then the remedies."""
    from qtool.cli.inspect_text import table

    yield f"samples: {found.samples}"
    yield f"prediction: {'Gram matrices' if found.exact else 'white inputs where Gram is missing'}"
    yield from table(HEAD, map(_row, found.ranked))
    for layer in found.ranked:
        if layer.cause:
            yield f"cause {layer.name}: {layer.cause}: {layer.facts}"
            yield f"remedy {layer.name}: {layer.remedy}"


def _row(layer: LayerSensitivity) -> tuple[str, ...]:
    return (
        f"{100 * layer.share:.1f} %", layer.name, layer.op, layer.types, _db(layer.sqnr),
        _db(layer.measured_sqnr), _db(layer.measured_outputs), _db(layer.cumulative),
        _db(layer.measured_cumulative), layer.cause,
    )  # fmt: skip


def _db(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} dB" if math.isfinite(value) else str(value)


def write_text(path: str, text: str) -> None:
    """Write a small text file, whole or not at all."""
    from qtool.formats.atomic import replacing

    if not path.strip():
        raise UsageError("--exclude-from names no file")
    with replacing(path) as file:
        file.write(text.encode())
