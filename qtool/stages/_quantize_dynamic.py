"""Quantization without ranges of activations: those taken at run time, and weights only."""

from __future__ import annotations

import logging

from qtool.model import Model, all_nodes
from qtool.quant import dynamic, weight_only
from qtool.quant.layer_types import layer_types
from qtool.stages._decisions import Decisions, roundings
from qtool.stages._quantize_layers import for_layer, rounder_of, selected_copy, with_reasons
from qtool.stages.quantize_options import Options

log = logging.getLogger("qtool")


def quantize_dynamic(model: Model, options: Options) -> Model:
    """Let MatMul, Gemm and Conv compute in integers with ranges taken at run time."""
    result, selection = selected_copy(model, dynamic.needed_opset(model, options.scheme), options)
    n_conv = sum(n.op_type == "Conv" for n in selection.nodes)
    if n_conv:
        log.warning(
            "%d Conv become ConvInteger, which onnxruntime often runs slower than float; static "
            "quantization does not have this problem: give --data SAMPLES",
            n_conv,
        )
    types = (*dynamic.OP_TYPES, "Conv")
    reasons = dynamic.dynamic(result, selection.nodes, options.scheme, op_types=types)
    left = weight_only.weight_only(result, selection.nodes, options.scheme)
    return with_reasons(result, {**selection.reasons, **left, **reasons})


def quantize_weights(
    model: Model, options: Options, decisions: Decisions, threads: int | None = None
) -> Model:
    """Store weights as integers; everything computes in float."""
    needed = max(weight_only.needed_opset(model, options.scheme), 21 if options.is_wide else 0)
    result, selection = selected_copy(model, needed, options)
    types = layer_types(result, options.layers)
    kinds = dict.fromkeys(types.get(node) for node in all_nodes(result) if node in selection)
    rounder = None
    if model.statistics is not None:
        rounder = rounder_of(result, model.statistics, options, threads)
    decisions.each("rounding", roundings(selection.nodes, rounder))
    reasons: dict[str, str] = {}
    for kind in kinds:
        nodes = {node for node in selection.nodes if types.get(node) == kind}
        scheme = for_layer(options, kind).scheme
        reasons |= weight_only.weight_only(result, nodes, scheme, rounder)
    return with_reasons(result, {**selection.reasons, **reasons})


def quantize_without_statistics(model: Model, options: Options) -> Model:
    """Quantize MatMul and Gemm dynamically, and of other layers the weights only."""
    result, selection = selected_copy(model, dynamic.needed_opset(model, options.scheme), options)
    reasons = dynamic.dynamic(result, selection.nodes, options.scheme)
    left = weight_only.weight_only(result, selection.nodes, options.scheme)
    n_dynamic = sum(n.op_type == "MatMulInteger" for n in all_nodes(result))
    log.info(
        "no statistics and no --data: %d MatMul/Gemm compute in integers, with ranges taken at "
        "run time; of the other layers only the weights are integers. To compute in integers "
        "everywhere: qtool quantize --input MODEL --data SAMPLES --output OUTPUT",
        n_dynamic,
    )
    return with_reasons(result, {**selection.reasons, **left, **reasons})
