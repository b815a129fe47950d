"""The same function with channels that quantize better: equalized, absorbed, smoothed, copied."""

from __future__ import annotations

from typing import Any

from qtool.model import Model
from qtool.passes.dense_head import dense_head
from qtool.quant.rescale import KEY
from qtool.shapes import infer_shapes
from qtool.stages._decisions import Decisions
from qtool.stages._rescale import LEAST_GAIN, SURE_GAIN, Wanted, rescale
from qtool.stages._smooth import smooth
from qtool.stages._twins import give_twins
from qtool.stages.quantize_options import Options

SMALL = 1 << 26  # bytes; a model above is rescaled only on request: it takes 8 times that


def transformed(
    model: Model, data: Any, threads: int, options: Options, decisions: Decisions
) -> tuple[Model, Model]:
    """Return the model in two forms: one that computes the same, and what to quantize.

    They differ in the limits of Clips, see rescale.
    """
    model = _with_dense_head(model, options)
    synthetic = getattr(data, "kind", "") == "synthetic" and bool(model.batch_norm)
    small = n_bytes(model) <= SMALL
    asked = wanted(options, small=small, synthetic=synthetic)
    for about in ("equalize", "absorb", "smooth", "twins"):
        decisions.say(about, "none")
    reference = model
    if asked.equalizer or asked.absorber:
        reference, model = rescale(model, asked, decisions, data=data, threads=threads)
    if options.smooth == "auto" and KEY not in model.ir.metadata_props:
        reference, model = smooth(
            reference, model, decisions, data=data, threads=threads, options=options
        )
    if options.wants_twins and small:
        levels = {"activations": options.activations}
        return give_twins(reference, model, decisions, data=data, threads=threads, **levels)
    return reference, model


def _with_dense_head(model: Model, options: Options) -> Model:
    """Return the model with a pooled convolution as Gemm.

    Not where there are statistics, which are of the model as it is, nor with weights of few bits,
    for which it was not measured.
    """
    if model.statistics is not None or options.integer_outputs or options.has_few_bits:
        return model
    typed = infer_shapes(model)
    found = dense_head(typed)
    return model if found is typed else found


def wanted(options: Options, *, small: bool, synthetic: bool) -> Wanted:
    """Return how channels are scaled and shifted.

    By itself only where that takes little memory, and is sure to pay. synthetic: of made samples,
    what training saw says more.
    """
    wide = options.is_wide and options.per_channel
    auto = (
        (None, None) if wide or not small else ("error", "batch-norm" if synthetic else "samples")
    )
    equalizer, absorber = (
        default if name == "auto" else None if name == "none" else name
        for name, default in zip((options.equalize, options.absorb), auto, strict=True)
    )
    least = SURE_GAIN if options.per_channel else LEAST_GAIN
    return Wanted(
        equalizer, absorber,
        least if options.equalize == "auto" else LEAST_GAIN,
        least if options.absorb == "auto" else 0.0,
        options.weights, options.activations, options.per_channel,
    )  # fmt: skip


def n_bytes(model: Model) -> int:
    """Return the bytes of all initializers."""
    return sum(
        v.const_value.nbytes for v in model.graph.initializers.values() if v.const_value is not None
    )
