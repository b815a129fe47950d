"""The results of inspect as text: one fact per line, for eyes and for grep."""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import click

from qtool.cli.options import print_json
from qtool.model import Json
from qtool.quant.coverage import NodeCoverage, Share
from qtool.quant.encodings import Encoding
from qtool.stages.compare import Change, Comparison
from qtool.stages.describe import Description
from qtool.stages.inspect import Inspection, Port, Weight
from qtool.stages.storage import StoredWeight

BAR = 40  # characters of the longest bar of a histogram


def show(found: Inspection | Description | Comparison, paths: Sequence[str], as_json: bool) -> None:
    """Write what was found to standard output, as text or as one JSON object."""
    facts = _file_facts(paths[0]) if isinstance(found, Inspection) else {}
    if as_json:
        print_json({**facts, **found.to_json()})
        return
    for key, value in facts.items():
        click.echo(f"{key}: {value}")
    for line in lines(found):
        click.echo(line)


def lines(found: Inspection | Description | Comparison) -> Iterator[str]:
    """Return the lines that say what was found."""
    if isinstance(found, Comparison):
        return comparison(found)
    return description(found) if isinstance(found, Description) else inspection(found)


def inspection(found: Inspection) -> Iterator[str]:
    """Yield the lines of an inspection: `key: value`, then tables whose rows start with a word.

    Weights and qparams one by one are there when their values were counted.
    """
    yield from _graph_lines(found)
    yield from _size_lines(found)
    yield from _coverage_lines(found)
    yield from _knowledge_lines(found)
    layers = [node for node in found.coverage.nodes if node.has_macs or node.n_weights]
    if layers:
        yield from table(_LAYER_HEAD, map(_layer, layers))
    if found.with_values:
        if found.weights:
            yield from table(_WEIGHT_HEAD, map(_weight, found.weights))
        if found.encodings:
            yield from table(_ENCODING_HEAD, map(_encoding, found.encodings))
    if found.storage is not None:
        ratios = (f"{name} {ratio:.2f}x" for name, ratio in found.storage.ratios().items())
        yield f"packed: {found.storage.file_bytes} bytes; smaller than {', '.join(ratios)}"
        yield from table(_STORED_HEAD, map(_stored, found.storage.tensors))


def description(found: Description) -> Iterator[str]:
    """Yield the lines of a description, its histogram last."""
    yield f"tensor: {found.name}"
    yield f"kind: {found.kind}"
    yield f"type: {found.dtype}{dims(found.shape)}"
    yield f"source: {found.source}"
    yield f"count: {found.count}"
    if found.n_not_finite:
        yield f"not_finite: {found.n_not_finite}"
    if found.n_distinct is not None:
        yield f"distinct: {found.n_distinct}"
    yield f"zeros: {percent(found.n_zeros, found.count)}"
    yield f"minimum: {found.minimum:.7g}"
    yield f"maximum: {found.maximum:.7g}"
    for p, value in found.percentiles:
        yield f"percentile_{p:g}: {value:.7g}"
    if found.encoding is not None:
        yield from _encoding_lines(found.encoding)
    if found.n_clipped is not None:
        yield f"clipped: {percent(found.n_clipped, found.count)}"
    yield from _histogram(found)


def comparison(found: Comparison) -> Iterator[str]:
    """Yield the lines of a comparison: nothing but `same` when nothing differs."""
    if found.same:
        yield "same: yes"
        return
    for word, changes in (("", found.totals), ("op ", found.ops), ("tensor ", found.constants)):
        yield from (f"{word}{_change(change)}" for change in changes)


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterator[str]:
    """Yield aligned lines; a column whose title ends in a space is aligned right."""
    cells = [[title.strip() for title in head], *([str(c) for c in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    for row in cells:
        padded = [
            cell.rjust(width) if title.endswith(" ") else cell.ljust(width)
            for cell, width, title in zip(row, widths, head, strict=True)
        ]
        yield "  ".join(padded).rstrip()


def dims(shape: Sequence[int | str | None] | None) -> str:
    """Return a shape as [1,N,?]; [?] when not even the rank is known."""
    known = ("?",) if shape is None else ("?" if d is None else str(d) for d in shape)
    return f"[{','.join(known)}]"


def percent(part: float, whole: float) -> str:
    """Return a part of a whole in percent, never rounded up to 100 or down to 0."""
    share = 100 * part / whole if whole else 0.0
    return (
        f"{min(share, 99.99) if share < 100 else share:.2f} %"
        if share > 0.005
        else (f"{share:.2g} %")
    )


def _file_facts(path: str) -> dict[str, Json]:
    """Return the name, the format and the size of a file; of standard input only the format."""
    kind = Path(path).suffix.lower().lstrip(".") or "qtm"
    facts: dict[str, Json] = {"file": path, "format": kind}
    return facts | ({"file_bytes": os.path.getsize(path)} if path != "-" else {})


def _graph_lines(found: Inspection) -> Iterator[str]:
    yield f"producer: {found.producer or 'unknown'}"
    yield f"ir_version: {found.ir_version}"
    yield from (f"opset: {domain} {version}" for domain, version in found.opsets.items())
    yield from (f"input: {_port(port)}" for port in found.inputs)
    yield from (f"output: {_port(port)}" for port in found.outputs)
    yield from (f"function: {name}" for name in found.functions)
    yield f"nodes: {sum(found.ops.values())}"
    yield from (f"op: {op} {n}" for op, n in sorted(found.ops.items(), key=lambda x: (-x[1], x[0])))


def _port(port: Port) -> str:
    return f"{port.name}: {port.dtype or 'unknown'}{dims(port.shape)}"


def _size_lines(found: Inspection) -> Iterator[str]:
    yield f"macs: {_macs(found)}"
    yield f"parameters: {found.n_parameters}"
    yield f"weight_bytes: {found.weight_bytes}"
    for dtype, (n, elements, size) in found.by_dtype().items():
        yield f"dtype: {dtype} {n} constants {elements} elements {size} bytes"
    kinds = Counter((e.kind, e.dtype) for e in found.encodings)
    yield from (f"quantized: {n} {kind} {dtype}" for (kind, dtype), n in sorted(kinds.items()))


def _macs(found: Inspection) -> str:
    known, n_unknown = found.coverage.by_macs.total, found.coverage.n_unknown_macs
    if n_unknown:
        return f"unknown for {n_unknown} nodes, {known} for the others"
    if found.coverage.assumed_dim is None:
        return str(known)
    first = found.open_dims[0]
    names = ", ".join(found.open_dims)
    return f"{known} (with {found.coverage.assumed_dim} for {names}; set --set-dim {first}=N)"


def _coverage_lines(found: Inspection) -> Iterator[str]:
    covered = found.coverage
    if not covered.is_quantized:
        yield "coverage: nothing is quantized"
        return
    yield f"coverage_macs: {_share(covered.by_macs)}"
    yield f"coverage_nodes: {_share(covered.by_nodes)}"
    yield f"coverage_bytes: {_share(covered.by_bytes)}"
    yield from (f"island: {' '.join(island)}" for island in covered.islands)
    if covered.float_nodes:
        rows = (("float", n.name, n.op_type, n.form, n.reason) for n in covered.float_nodes)
        yield from table(("float", "node", "op", "form", "reason"), rows)


def _share(share: Share) -> str:
    return (
        f"{percent(share.integer, share.total)} integer, "
        f"{percent(share.integer_weights, share.total)} integer weights, of {share.total}"
    )


def _knowledge_lines(found: Inspection) -> Iterator[str]:
    known = found.statistics
    if known is not None:
        shards = f", shard {' '.join(known.shards)}" if known.shards else ""
        grams = f" and {known.n_grams} layers" if known.n_grams else ""
        whose = (
            "this model" if known.of_this_model else "the model that was calibrated, not this one"
        )
        kind = "" if known.source == "samples" else f"{known.source} "
        yield (
            f"statistics: {known.n_tensors} tensors{grams}, "
            f"{known.n_samples} {kind}samples{shards}, "
            f"of {whose}"
        )
    if found.preprocess is not None:
        yield f"preprocess: {json.dumps(found.preprocess, sort_keys=True)}"
    if found.batch_norm:
        yield f"batch_norm: {len(found.batch_norm)} tensors"
    for step in found.history:
        options = json.dumps(step["options"], sort_keys=True)
        yield f"history: {step['command']} {options} {step['version']}".rstrip()
        for about, choice in step.get("decided", {}).items():
            yield f"  {about}: {choice if isinstance(choice, str) else json.dumps(choice)}"


_LAYER_HEAD = (
    "layer", "name", "op", "output", "macs ", "weights ", "bytes ", "weight", "input", "computes",
)  # fmt: skip


def _layer(node: NodeCoverage) -> Sequence[object]:
    return (
        "layer",
        node.name,
        node.op_type,
        dims(node.shape),
        "?" if node.macs is None else node.macs,
        node.n_weights,
        node.weight_bytes,
        node.weight_dtype or "-",
        node.activation_dtype or "-",
        "integer" if node.form == "integer" else "float",
    )


_WEIGHT_HEAD = ("weight", "name", "dtype", "shape", "bytes ", "distinct ", "zeros ")


def _weight(weight: Weight) -> Sequence[object]:
    zeros = "-" if weight.zeros is None else percent(weight.zeros, 1.0)
    distinct = "-" if weight.n_distinct is None else weight.n_distinct
    name = weight.name, weight.dtype, dims(weight.shape)
    return ("weight", *name, weight.n_bytes, distinct, zeros)


_STORED_HEAD = ("stored", "name", "shape", "bytes ", "bits ", "entropy ", "of file ", "codecs")


def _stored(weight: StoredWeight) -> Sequence[object]:
    bits = f"{weight.bits:.2f}", f"{weight.entropy:.2f}", percent(weight.share, 1.0)
    return ("stored", weight.name, dims(weight.shape), weight.stored_bytes, *bits, weight.codecs)


_ENCODING_HEAD = ("qparams", "name", "kind", "dtype", "axis ", "scales ", "scale", "zero_point")


def _encoding(found: Encoding) -> Sequence[object]:
    axis = "-" if found.axis is None else found.axis
    facts = found.kind, found.dtype, axis, found.n_scales
    return ("qparams", found.name, *facts, _span(found.scale), _span(found.zero_point))


def _encoding_lines(found: Encoding) -> Iterator[str]:
    yield f"quantized: {found.dtype}"
    yield f"scale: {_span(found.scale)}"
    yield f"zero_point: {_span(found.zero_point)}"
    if found.axis is not None:
        yield f"axis: {found.axis} ({found.n_scales} scales)"
    if found.range is not None:
        yield f"range: {found.range[0]:.7g}..{found.range[1]:.7g}"


def _span(ends: tuple[float, float] | None) -> str:
    if ends is None:
        return "dynamic"
    return f"{ends[0]:.7g}" if ends[0] == ends[1] else f"{ends[0]:.7g}..{ends[1]:.7g}"


def _histogram(found: Description) -> Iterator[str]:
    """Yield a row per bin, bars on a log scale: how a range cuts the tails is what matters.

    Rows that the quantized range does not hold, or only in part, are marked.
    """
    if not found.count:
        return
    most = math.log1p(max(found.counts))
    real = found.kind == "activation"
    limits = None if found.encoding is None or not real else found.encoding.range
    rows = []
    for low, high, count in zip(found.edges, found.edges[1:], found.counts, strict=False):
        bar = "#" * math.ceil(BAR * math.log1p(count) / most)
        rows.append(("bin", f"{low:.6g}", f"{high:.6g}", count, _mark(low, high, limits), bar))
    yield from table(("bin", "from ", "to ", "count ", "range", "log(count)"), rows)


def _mark(low: float, high: float, limits: tuple[float, float] | None) -> str:
    if limits is None:
        return "-"
    if high <= limits[0] or low >= limits[1]:
        return "clipped"
    return "edge" if low < limits[0] or high > limits[1] else "in"


def _change(change: Change) -> str:
    before, after = ("none" if x is None else x for x in (change.before, change.after))
    if change.difference is None:
        return f"{change.what}: {before} -> {after}"
    if isinstance(change.difference, int):
        return f"{change.what}: {before} -> {after} ({change.difference:+d})"
    return f"{change.what}: {after} values differ by up to {change.difference}"
