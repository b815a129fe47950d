"""What inspect says about why and how much: sensitivity, costs, and hazards of layers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from qtool.cli import options
from qtool.errors import UsageError

if TYPE_CHECKING:
    from qtool.model import Model
    from qtool.quant.pair_sums import Hazard
    from qtool.stages.costs import Costs, LayerCost
    from qtool.stages.sensitivity import LayerSensitivity, Sensitivity

HEAD = (
    "noise ", "layer", "op", "weights reads gives", "alone ", "measured ", "at outputs ",
    "cumulative ", "measured ", "cause",
)  # fmt: skip
FORMS = {
    "now": "as it is",
    "float": "in float",
    "int8": "in int8",
    "packed": "int8, weights packed",
}
COST_HEAD = (
    "layer", "op", "form", "MACs ", "bytes ", "MACs/byte ", "bound by", "us ", "float ", "int8 ",
    "packed ", "uJ ", "float ", "int8 ", "packed ",
)  # fmt: skip
MOST_NAMES = 4
HAZARD_HEAD = ("", "layer", "channels ", "largest sum ", "largest activation")


def check(views: list[str], given: Mapping[str, Any], others: bool) -> None:
    """Fail on views that do not go together, and options that go only with --sensitivity."""
    if len(views) > 1:
        raise click.UsageError(f"--{views[0]} and --{views[1]} are two views; give one of them")
    if views and others:
        raise click.UsageError(f"--{views[0]} goes without --tensor, --tensors and --diff")
    for name in ("reference", "data", "random", "exclude_file"):
        if given[name] and "sensitivity" not in views:
            option = "--exclude-from" if name == "exclude_file" else f"--{name}"
            raise click.UsageError(f"{option} goes with --sensitivity")


def show_costs(model: Model, dims: Mapping[str, int], as_json: bool) -> None:
    """Write what the layers of a model take to standard output."""
    from qtool.stages.costs import costs

    found = costs(model, dims=dims)
    _write(found.to_json() if as_json else cost_lines(found))


def show_hazards(model: Model, as_json: bool) -> None:
    """Write where AVX2 would saturate to standard output."""
    from qtool.quant.pair_sums import hazards

    found = hazards(model)
    _write({"layers": [h.to_json() for h in found]} if as_json else hazard_lines(found))


def _write(found: Any) -> None:
    if isinstance(found, dict):
        options.print_json(found)
        return
    for line in found:
        click.echo(line)


def cost_lines(found: Costs) -> Iterator[str]:
    """Yield the lines of the costs: the machine, totals, and tables, the slowest layer first."""
    from qtool.cli.inspect_text import table

    m = found.machine
    yield f"peak: {m.integer_gmacs:.0f} GMAC/s in integers, {m.float_gmacs:.0f} in float, one core"
    yield f"bandwidth: {m.cache_gb:.0f} GB/s within the cache, {m.memory_gb:.1f} of memory"
    if found.assumed_dim is not None:
        yield f"assumed_dim: {found.assumed_dim}"
    for form, text in FORMS.items():
        ms, uj = found.total(form)
        size = found.weight_bytes[form]
        yield f"total {text}: at least {ms:.3f} ms, {uj:.0f} uJ, {size:,.0f} bytes of weights"
    layers = sorted(found.layers, key=lambda layer: -layer.ms["now"])
    yield from table(COST_HEAD, (_cost_row(layer) for layer in layers if layer.macs))
    for island in found.islands:
        yield (
            f"island {_named(island.nodes)}: at least {1e3 * island.ms:.1f} us, in integers "
            f"{1e3 * island.integer_ms:.1f} us"
        )
    for grid in found.grids:
        yield (
            f"unfused {grid.op} of {grid.tensor} beside {grid.beside}: {grid.bytes:,} bytes, at "
            f"least {1e3 * grid.ms:.1f} us"
        )


def _named(nodes: Sequence[str]) -> str:
    """Return the names of an island, of a large one its ends only; --json has them all."""
    if len(nodes) <= MOST_NAMES:
        return ", ".join(nodes)
    return f"{nodes[0]} .. {nodes[-1]} ({len(nodes)} nodes)"


def _cost_row(layer: LayerCost) -> tuple[str, ...]:
    return (
        layer.name, layer.op, layer.form, f"{layer.macs:,}",
        f"{layer.weight_bytes + layer.activation_bytes:,}", f"{layer.intensity:.1f}", layer.bound,
        *(f"{1e3 * layer.ms[form]:.1f}" for form in FORMS),
        *(f"{layer.uj[form]:.1f}" for form in FORMS),
    )  # fmt: skip


def hazard_lines(found: Sequence[Hazard]) -> Iterator[str]:
    """Yield the lines of hazards, the layer of most channels first."""
    from qtool.cli.inspect_text import table

    if not found:
        yield "layers: none multiplies 8-bit integers: give what qtool quantize wrote"
        return
    bad = [h for h in found if h.channels]
    channels, whole = sum(len(h.channels) for h in bad), sum(h.n_channels for h in found)
    yield f"layers: {len(bad)} of {len(found)} can saturate int16 sums of two products"
    yield f"channels: {channels} of {whole}"
    rows = (
        (
            "hazard", h.name, f"{len(h.channels)}/{h.n_channels}", str(h.worst),
            f"{h.largest_activation}{'' if h.calibrated else ' (not calibrated)'}",
        )
        for h in sorted(bad, key=lambda h: -len(h.channels))
    )  # fmt: skip
    if bad:
        yield from table(HAZARD_HEAD, rows)


def show_sensitivity(model: Model, given: dict[str, Any], as_json: bool) -> None:
    """Write the sensitivity of a model's layers to standard output."""
    from qtool import formats
    from qtool.cli.console import track
    from qtool.stages.evaluate import differ
    from qtool.stages.sensitivity import sensitivity

    path, reference, threads = (given.pop(k) for k in ("exclude_file", "reference", "threads"))
    other = None if reference is None else formats.load(reference)
    stored = model.preprocess or (None if other is None else other.preprocess)
    sampled = given["data"] is not None or given["random"]
    if sampled and given["preprocess"] is None and not differ(model.preprocess, stored):
        given["preprocess"] = stored
    data = options.open_data(model, given)
    found = sensitivity(model, reference=other, data=data, threads=threads, progress=track)
    if path is not None:
        write_text(path, found.exclude_file())
    _write(found.to_json() if as_json else lines(found))


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
