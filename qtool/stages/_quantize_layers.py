"""What every way of quantizing begins with: a copy, the chosen nodes and the types of layers."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace

from qtool.model import Model, Statistics, all_nodes, opset
from qtool.passes.opset import raise_opset
from qtool.quant.coverage import REASON_KEY
from qtool.quant.layer_rounding import Rounder, Search
from qtool.quant.layer_types import LayerType, layer_types
from qtool.quant.selection import Selection, node_label, select
from qtool.shapes import infer_shapes
from qtool.stages.calibrate import cores
from qtool.stages.quantize_options import Options

log = logging.getLogger("qtool")


def selected_copy(model: Model, needed: int, options: Options) -> tuple[Model, Selection]:
    """Return a copy with types, at an opset of at least needed, and the nodes to quantize."""
    if opset(model) < needed:
        log.info("raising the opset from %d to %d", opset(model), needed)
        model = raise_opset(model, needed)
    result = infer_shapes(model)
    selection = select(result, options.only, options.exclude)
    kept = {n: k.option for n, k in layer_types(result, options.layers).items() if k.is_float}
    reasons = {node_label(node): option for node, option in kept.items()}
    chosen = Selection(selection.nodes - kept.keys(), {**reasons, **selection.reasons})
    return result, chosen


def for_layer(options: Options, kind: LayerType | None) -> Options:
    """Return the options for a layer of this type."""
    if kind is None:
        return options
    weights, activations = kind.weights(options.weights), kind.activations(options.activations)
    return replace(options, weights=weights, activations=activations)


def with_reasons(model: Model, reasons: Mapping[str, str]) -> Model:
    """Return the model, each node of which that stays in float now says why."""
    for node in all_nodes(model):
        reason = reasons.get(node_label(node))
        if reason is not None:
            node.metadata_props[REASON_KEY] = reason
    return model


def rounder_of(
    model: Model,
    statistics: Statistics,
    options: Options,
    threads: int | None,
    *,
    zeros: bool = False,
) -> Rounder | None:
    """Return what rounds weights by their Gram matrices; None where all go to the nearest."""
    names = ((node, node.outputs[0].name or "") for node in model.graph if node.outputs)
    grams = {node: statistics.grams[name] for node, name in names if name in statistics.grams}
    method = "descent" if options.rounding == "auto" else options.rounding
    if not grams or method == "nearest":
        return None
    return Rounder(grams, search(options, method, threads, zeros=zeros))


def search(options: Options, method: str, threads: int | None, *, zeros: bool) -> Search:
    """Return how integers are searched; zero points are free where nothing was said of them."""
    free = options.weight_method is None
    zeros = zeros and free and options.weight_symmetric is None and options.format == "qdq"
    return Search(method, free, zeros, threads or cores())
