"""Static quantization: integers throughout, with the ranges that statistics tell."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import onnx_ir as ir

from qtool.errors import ModelError, UnsupportedError
from qtool.model import Model, Statistics, all_nodes
from qtool.qparams import QParams
from qtool.quant import qdq, weight_only
from qtool.quant.coverage import REASON_KEY
from qtool.quant.encode import WeightScheme
from qtool.quant.expectation import Expected, expected_rounding
from qtool.quant.layer_rounding import WeightRounder
from qtool.quant.layer_types import LayerType, layer_types, of_weight
from qtool.quant.plan import Plan, plan
from qtool.quant.selection import Selection, node_label
from qtool.quant.weights import WEIGHT_METHODS
from qtool.registry import lookup
from qtool.stages._decisions import Decisions, roundings
from qtool.stages._quantize_layers import for_layer, rounder_of, search, selected_copy
from qtool.stages._quantize_ranges import Choose, group_ranges
from qtool.stages._sequential import round_sequentially
from qtool.stages.quantize_options import BY_SAMPLES, Options

log = logging.getLogger("qtool")

Types = Mapping[ir.Node, LayerType]


class NothingQuantized(UnsupportedError):
    """No node of a model has an integer form that ranges could be chosen for."""


class Fitting(NamedTuple):
    """What fitting weights layer after layer needs: the float model, and samples run through it."""

    reference: Model
    data: Any
    threads: int
    progress: Any


def quantize_static(
    model: Model,
    options: Options,
    decisions: Decisions,
    threads: int | None = None,
    fitting: Fitting | None = None,
    choose: Choose | None = None,
) -> Model:
    """Return the model with integers between its quantized ops.

    fitting rounds by samples, choose takes ranges from them.

    Raises:
        ModelError: the statistics lack a tensor, or the model is quantized already.
        NothingQuantized: no node of it can be quantized.
    """
    statistics = model.statistics
    if statistics is None:
        raise ModelError("the model has no statistics; run qtool calibrate")
    if statistics.source == "random":
        log.warning("the ranges come from random samples: calibrate on real ones for accuracy")
    result, selection = selected_copy(model, 21 if options.is_wide else 13, options)
    types = layer_types(result, options.layers)
    made = _planned(model, result, selection, options)
    _mention_idle(types, made)
    ranges = group_ranges(made, statistics, options, types, choose)
    first = [(group.observed or group.members)[0].name or "" for group in made.groups]
    decisions.each("range", {x: found.follows for x, found in zip(first, ranges, strict=True)})
    rounder = None if fitting else _rounder(result, statistics, options, threads)
    rounded = roundings(made.nodes, rounder, made.clamps)
    for node, reason in made.reasons.items():
        node.metadata_props[REASON_KEY] = reason
    qparams = [found.qparams for found in ranges]
    for note in qdq.insert(result.graph, made, qparams, _scheme(options, types, rounder)):
        log.info(note)
    # Recurrent layers and those of subgraphs compute in float, with integer weights.
    weight_only.weight_only(result, selection.nodes, options.scheme)
    fitted = [] if fitting is None else _fit(result, options, types, fitting)
    decisions.each("rounding", {**rounded, **dict.fromkeys(fitted, "sequential")})
    decisions.say("correct", _correction(options, rounder, fitting))
    return result


def _correction(options: Options, rounder: WeightRounder | None, fitting: Fitting | None) -> str:
    """Return how biases are corrected here; quantize may do it afterwards."""
    if fitting is not None:
        return "sequential" if options.correct in BY_SAMPLES else "none"
    return "analytic" if isinstance(rounder, Expected) else "none"


def _planned(model: Model, result: Model, selection: Selection, options: Options) -> Plan:
    """Return what of result, the copy of model, becomes integers."""
    statistics = model.statistics
    assert statistics is not None
    made = plan(result, _selected(selection), statistics, integer_outputs=options.integer_outputs)
    if any(node.op_type in ("QuantizeLinear", "QLinearConv") for node in all_nodes(model)):
        advice = "the model is quantized already: give the float one it was made from"
        if not made.nodes:
            raise ModelError(advice)
        log.warning("%s", advice)
    if not made.nodes:
        raise NothingQuantized(
            f"no node can be quantized: {_summary(made)}; --mode weight-only stores weights as "
            "integers all the same"
        )
    return made


def _mention_idle(types: Types, made: Plan) -> None:
    """Warn of each type that is given only to nodes which stay in float all the same."""
    given: dict[str, list[ir.Node]] = {}
    for node, kind in types.items():
        if not kind.is_float:
            given.setdefault(kind.option, []).append(node)
    for option, nodes in given.items():
        if made.nodes.keys().isdisjoint(nodes):
            why = made.reasons.get(nodes[0], "it is not quantized")
            log.warning("%s changes nothing: %s: %s", option, node_label(nodes[0]), why)


def _selected(selection: Selection) -> Callable[[ir.Node], str | None]:
    return lambda node: selection.reasons.get(node_label(node))


def _summary(made: Plan) -> str:
    counts = Counter(made.reasons.values())
    return "; ".join(f"{n} x {reason}" for reason, n in counts.most_common(3)) or "it has none"


def _rounder(
    result: Model, statistics: Statistics, options: Options, threads: int | None
) -> WeightRounder | None:
    """Return what rounds weights: by Gram matrices, else by expected inputs; None: the nearest."""
    rounder: WeightRounder | None = rounder_of(result, statistics, options, threads, zeros=True)
    if rounder is None and options.correct in ("auto", "analytic"):
        rounder = expected_rounding(result)
    return rounder


def _scheme(options: Options, types: Types, rounder: WeightRounder | None) -> qdq.Scheme:
    return qdq.Scheme(
        options.activations,
        options.activation_symmetric,
        lambda weight, axis, users: _weight_qparams(
            weight, axis, for_layer(options, of_weight(users, types)).scheme
        ),
        rounder,
        options.target,
    )


def _weight_qparams(weight: Any, axis: int | None, scheme: WeightScheme) -> QParams:
    return lookup(WEIGHT_METHODS, scheme.method, "weight method")(
        weight,
        dtype=scheme.dtype,
        axis=axis if scheme.per_channel else None,
        symmetric=scheme.symmetric,
        narrow=scheme.narrow,
    )


def _fit(result: Model, options: Options, types: Types, fitting: Fitting) -> list[str]:
    """Round the weights of a quantized model layer after layer, in place; return which."""

    def dtype_of(node: ir.Node) -> str | None:
        dtype = for_layer(options, types.get(node)).weights
        return None if options.target and dtype.endswith("8") else dtype

    method = "descent" if options.rounding in ("auto", "sequential") else options.rounding
    names = round_sequentially(
        fitting.reference, result, dtype_of=dtype_of, data=fitting.data, threads=fitting.threads,
        progress=fitting.progress, search=search(options, method, fitting.threads, zeros=True),
        corrects=options.correct in BY_SAMPLES,
    )  # fmt: skip
    log.info("fitted the weights of %d layers, front to back", len(names))
    return names
