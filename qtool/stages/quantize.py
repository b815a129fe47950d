"""quantize: weights and activations to integers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any

from qtool.errors import ModelError, UsageError
from qtool.model import Model, Statistics, all_nodes, fingerprint
from qtool.quant.coverage import coverage
from qtool.quant.qoperator import to_qoperator
from qtool.runtime.trial import check_runs
from qtool.stages._correction import correct
from qtool.stages._decisions import Decisions
from qtool.stages._output_ranges import OutputRanges
from qtool.stages._quantize_calibrate import calibrated, with_grams
from qtool.stages._quantize_dynamic import (
    quantize_dynamic,
    quantize_weights,
    quantize_without_statistics,
)
from qtool.stages._quantize_static import Fitting, NothingQuantized, quantize_static
from qtool.stages._transform import n_bytes, transformed
from qtool.stages.calibrate import cores, untracked
from qtool.stages.quantize_options import BY_BATCH_NORM, BY_DATA, BY_SAMPLES, Options

log = logging.getLogger("qtool")

LARGE_BYTES = 1 << 30  # a model above this is run only on request

Progress = Callable[..., Iterable[Any]]


def quantize(
    model: Model,
    *,
    data: Any = None,
    statistics: Statistics | None = None,
    threads: int | None = None,
    check: bool | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Model:
    """Return the model with integers where `options` (the fields of Options) say.

    mode static needs statistics, in the model or given, or data (samples), which calibrates on
    the way; mode weight-only rounds by data where there is some. Every node that stays in float
    carries the reason in its metadata. check loads the result in onnxruntime and runs it once: by
    default up to a gigabyte.

    Raises:
        UsageError: an option is unknown or contradicts another.
        ModelError: the statistics are of another model or lack a tensor.
        UnsupportedError: the model has no form with these options.
    """
    chosen = Options(**options)
    model = _with_statistics(model, statistics)
    decisions = Decisions()
    result = _quantized(model, chosen, decisions, data, threads or cores(), progress or untracked)
    if chosen.format == "qoperator":
        result = to_qoperator(result)
    _forget_types(result)
    if check is None:
        check = n_bytes(model) <= LARGE_BYTES
        if not check:
            log.info("not run in onnxruntime: the model is over 1 GB; --check does it")
    if check:
        check_runs(result)
    return result.then("quantize", chosen.changed(), decided=decisions.found)


def _with_statistics(model: Model, statistics: Statistics | None) -> Model:
    if statistics is None:
        return model
    if statistics.model != fingerprint(model):
        raise ModelError("the statistics are of another model; calibrate this one")
    return Model(model.ir, statistics, model.batch_norm, model.preprocess, model.history)


def _quantized(
    model: Model,
    options: Options,
    decisions: Decisions,
    data: Any,
    threads: int,
    progress: Progress,
) -> Model:
    """Return the model quantized in the mode that options and what is there ask for."""
    mode, known = options.mode, model.statistics is not None or data is not None
    if mode == "static" or (mode == "auto" and known):
        decisions.say("mode", "static")
        try:
            return _static(model, options, decisions, data, threads, progress)
        except NothingQuantized as error:
            result = None if mode == "static" else quantize_weights(model, options, decisions)
            if result is None or not coverage(result).is_quantized:
                raise
            log.warning("%s: that is done here", error)
            decisions.say("mode", "weight-only")
            return result
    decisions.say("mode", "dynamic and weight-only" if mode == "auto" else mode)
    _check(model, options, mode, data)
    if mode == "dynamic":
        return quantize_dynamic(model, options)
    if mode == "weight-only":
        if options.rounding != "nearest":
            model = with_grams(model, options, data, threads, progress)
        return quantize_weights(model, options, decisions, threads)
    return quantize_without_statistics(model, options)


def _static(
    model: Model,
    options: Options,
    decisions: Decisions,
    data: Any,
    threads: int,
    progress: Progress,
) -> Model:
    """Return the model in integers: channels scaled, calibrated, quantized, biases corrected."""
    _check(model, options, "static", data)
    reference = model
    if data is not None:
        reference, model = transformed(model, data, threads, options, decisions)
    if model.statistics is None:
        model = calibrated(model, options, data, threads, progress)
    if options.needs_grams:
        model = with_grams(model, options, data, threads, progress)
    by_samples = options.range == "auto" and data is not None
    choose = OutputRanges(model, data, threads) if by_samples else None
    if options.is_sequential(data):
        fitting = Fitting(reference, data, threads, progress)
        return quantize_static(model, options, decisions, threads, fitting, choose)
    result = quantize_static(model, options, decisions, threads, choose=choose)
    if data is not None and options.correct in BY_SAMPLES:
        names = correct(reference, result, data=data, threads=threads, progress=progress)
        if names:
            decisions.say("correct", "sequential")
            log.info("corrected the biases of %d layers, front to back", len(names))
    return result


def _check(model: Model, options: Options, mode: str, data: Any) -> None:
    """Refuse or mention what does not go with the mode."""
    rounds = mode == "weight-only" and options.rounding != "nearest"
    if data is not None and mode != "static" and not rounds:
        log.warning("the samples are not used: none are needed for mode %s", mode)
    if mode == "static" and options.block_size:
        raise UsageError(
            "--block-size goes with --mode weight-only; with --data or statistics it is static"
        )
    if options.needs_grams and mode in ("auto", "dynamic"):
        raise UsageError(f"--rounding {options.rounding} goes by samples: give --data")
    for option, value in BY_DATA:
        if getattr(options, option) == value and (mode != "static" or data is None):
            raise UsageError(f"--{option} {value} is for static quantization: give --data")
    for option, value in BY_BATCH_NORM:
        if getattr(options, option) == value and not model.batch_norm:
            raise UsageError(
                f"--{option} {value} needs batch-norm statistics: give the .qtm that qtool freeze "
                "writes of a model with BatchNormalization"
            )
    if mode == "static" and model.statistics is not None and model.statistics.shards:
        part = ", ".join(model.statistics.shards)
        log.warning("the statistics are of shard %s only; qtool merge joins all of them", part)
    if options.format == "qoperator" and mode != "static":
        raise UsageError("--format qoperator is for static quantization: give --data or statistics")


def _forget_types(model: Model) -> None:
    """Drop the inferred types of tensors inside the graph, which would only cost bytes."""
    for node in all_nodes(model):
        for value in node.outputs:
            if not value.is_graph_output():
                value.type = value.shape = None
