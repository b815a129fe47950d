"""quantize: weights and activations to integers."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

import numpy as np
import onnx_ir as ir

from qtool.errors import ModelError, UnsupportedError, UsageError
from qtool.model import Model, Statistics, TensorStatistics, all_nodes, array, fingerprint, opset
from qtool.passes.opset import raise_opset
from qtool.qparams import QParams, from_range, limits
from qtool.quant import dynamic, qdq, weight_only
from qtool.quant.coverage import REASON_KEY
from qtool.quant.encode import WeightScheme
from qtool.quant.equalizers import EQUALIZERS
from qtool.quant.expectation import expected_rounding
from qtool.quant.layer_rounding import Rounder, Search, WeightRounder
from qtool.quant.layer_types import LayerType, layer_types, of_weight, parse, widest
from qtool.quant.pair_sums import TARGETS
from qtool.quant.plan import Group, Plan, plan
from qtool.quant.rounding import ROUNDINGS
from qtool.quant.selection import Selection, node_label, select
from qtool.quant.weights import WEIGHT_METHODS
from qtool.registry import lookup
from qtool.runtime.trial import check_runs
from qtool.shapes import infer_shapes
from qtool.stages._correction import correct
from qtool.stages._equalize import LEAST_GAIN, SURE_GAIN, equalize
from qtool.stages._sequential import round_sequentially
from qtool.stages._smooth import smooth
from qtool.stages.calibrate import calibrate, cores, untracked
from qtool.statistics.gram import gram_layers
from qtool.statistics.histogram import merged
from qtool.statistics.ranges import RANGES

log = logging.getLogger("qtool")

MODES = ("auto", "static", "dynamic", "weight-only")
FORMATS = ("qdq", "qoperator")
ACTIVATIONS = ("uint8", "int8", "uint16", "int16")
WEIGHTS = ("int8", "uint8", "int4", "uint4", "int3", "uint3")
FEW_BITS = ("int3", "int4")  # endings of the types that clipping weights can pay for
ROUNDING = ("auto", *ROUNDINGS, "sequential")
CORRECTIONS = ("auto", "none", "sequential", "analytic")
BY_SAMPLES = ("auto", "sequential")
EQUALIZE = ("auto", "none", *EQUALIZERS)
SMOOTH = ("auto", "none")
GRAM_BYTES = 1 << 30  # of Gram matrices that are summed without being asked for
STRETCH = 2.0  # of the range of outputs: made pictures evoke no class as photographs do
EQUALIZED_BYTES = 1 << 26  # a model above this is equalized only on request: it takes 8 times that
LARGE_BYTES = 1 << 30  # a model above this is run only on request


@dataclass(frozen=True)
class Options:
    """What quantize does; the names are those of the command line."""

    mode: str = "auto"
    format: str = "qdq"
    activations: str = "uint8"
    activation_symmetric: bool = False
    weights: str = "int8"
    weight_symmetric: bool | None = None  # None: but for zero points of few bits, by error
    weight_method: str | None = None  # None: minmax for 8 bits, mse for fewer
    rounding: str = "auto"  # descent where there are Gram matrices, else nearest
    per_channel: bool = True
    block_size: int | None = None
    range: str = "mse"
    only: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()  # PATTERN=TYPE, types for single layers; the last match counts
    equalize: str = "auto"  # error, with samples, where it is sure to pay
    smooth: str = "auto"  # with samples, where the predicted error falls
    correct: str = "auto"  # sequential where there are samples
    target: str | None = None  # avx2: 7 bits for the channels that would saturate there
    integer_outputs: bool = False

    def __post_init__(self) -> None:
        """Check the names.

        Raises:
            UsageError: one is unknown, or two contradict each other.
        """
        lookup(dict.fromkeys(MODES), self.mode, "mode")
        lookup(dict.fromkeys(FORMATS), self.format, "format")
        lookup(dict.fromkeys(ACTIVATIONS), self.activations, "activation type")
        lookup(dict.fromkeys(WEIGHTS), self.weights, "weight type")
        lookup(RANGES, self.range, "range method")
        lookup(dict.fromkeys(ROUNDING), self.rounding, "rounding")
        lookup(dict.fromkeys(CORRECTIONS), self.correct, "bias correction")
        lookup(dict.fromkeys(EQUALIZE), self.equalize, "equalizer")
        lookup(dict.fromkeys(SMOOTH), self.smooth, "smoothing")
        if self.target is not None:
            lookup(dict.fromkeys(TARGETS), self.target, "target")
        if self.weight_method is not None:
            lookup(WEIGHT_METHODS, self.weight_method, "weight method")
        if self.format == "qoperator" and self.activations.endswith("16"):
            raise UsageError(f"--format qoperator has no {self.activations} form; use --format qdq")
        kinds = [parse(text)[1] for text in self.layers]
        if self.mode == "dynamic" and not all(kind.is_float for kind in kinds):
            raise UsageError("--mode dynamic: --layer can only say float there")
        if self.block_size and self.mode in ("static", "dynamic"):
            raise UsageError("--block-size goes with --mode weight-only")

    @property
    def is_wide(self) -> bool:
        """Whether there are weights of 3 or 4 bits or 16-bit activations, which opset 21 has."""
        kinds = [parse(text)[1] for text in self.layers]
        return (
            self.activations.endswith("16")
            or self.weights.endswith(FEW_BITS)
            or any(kind.weight_bits in (3, 4) or kind.activation_bits == 16 for kind in kinds)
        )

    def is_sequential(self, data: Any) -> bool:
        """Return whether weights are fitted to what the quantized layers before give."""
        kinds = [parse(text)[1].weight_bits for text in self.layers]
        few = self.weights.endswith(FEW_BITS) or any(bits in (3, 4) for bits in kinds)
        chosen = self.rounding == "auto" and self.weight_method is None and few
        return data is not None and (self.rounding == "sequential" or chosen)

    @property
    def scheme(self) -> WeightScheme:
        """How weights are quantized."""
        return WeightScheme(
            self.weights,
            self.weight_method or ("mse" if self.weights.endswith(FEW_BITS) else "minmax"),
            per_channel=self.per_channel,
            symmetric=self.weight_symmetric is not False,
            narrow=self.weight_symmetric is not False,
            block_size=self.block_size if self.mode == "weight-only" else 0,
        )

    @property
    def equalizer(self) -> str | None:
        """Which equalizer runs; None for none."""
        if self.equalize == "auto":
            return None if self.is_wide and self.per_channel else "error"
        return None if self.equalize == "none" else self.equalize

    def changed(self) -> dict[str, Any]:
        """Return the options that are not the defaults, for the history."""
        pairs = ((f.name, getattr(self, f.name), f.default) for f in fields(self))
        return {n: list(v) if isinstance(v, tuple) else v for n, v, d in pairs if v != d}


def quantize(
    model: Model,
    *,
    data: Any = None,
    statistics: Statistics | None = None,
    threads: int | None = None,
    check: bool | None = None,
    progress: Callable[..., Iterable[Any]] | None = None,
    **options: Any,
) -> Model:
    """Return the model with integers where `options` (the fields of Options) say.

    mode static needs statistics, in the model or given, or data (samples), which calibrates on
    the way. Every node that stays in float carries the reason in its metadata. check loads the
    result in onnxruntime and runs it once: by default up to a gigabyte.

    Raises:
        UsageError: an option is unknown or contradicts another.
        ModelError: the statistics are of another model or lack a tensor.
        UnsupportedError: the model has no form with these options.
    """
    chosen = Options(**options)
    if statistics is not None:
        if statistics.model != fingerprint(model):
            raise ModelError("the statistics are of another model; calibrate this one")
        model = Model(model.ir, statistics, model.batch_norm, model.preprocess, model.history)
    mode = chosen.mode
    if mode == "auto":
        mode = "static" if model.statistics is not None or data is not None else "auto"
    reference = model
    if mode == "static" and data is not None:
        reference, model = _rescaled(model, data, threads or cores(), chosen)
    if mode == "static" and model.statistics is None:
        model = _calibrated(model, data, threads, progress, chosen)
    _check(model, chosen, mode, data)
    fits = mode == "static" and chosen.is_sequential(data)
    tools = (reference, data, threads or cores(), progress or untracked)
    static = partial(_static, threads=threads, samples=tools if fits else None)
    make: dict[str, Callable[[Model, Options], Model]] = {
        "static": static,
        "dynamic": _dynamic,
        "weight-only": partial(_weight_only, threads=threads),
        "auto": _auto,
    }
    result = make[mode](model, chosen)
    if mode == "static" and data is not None and chosen.correct in BY_SAMPLES and not fits:
        used, tracked = threads or cores(), progress or untracked
        names = correct(reference, result, data=data, threads=used, progress=tracked)
        if names:
            log.info("corrected the biases of %d layers, front to back", len(names))
    if chosen.format == "qoperator":
        from qtool.quant.qoperator import to_qoperator

        result = to_qoperator(result)
    _forget_types(result)
    if check is None:
        check = _bytes(model) <= LARGE_BYTES
        if not check:
            log.info("not run in onnxruntime: the model is over 1 GB; --check does it")
    if check:
        check_runs(result)
    return result.then("quantize", chosen.changed())


def _rescaled(model: Model, data: Any, threads: int, options: Options) -> tuple[Model, Model]:
    """Return the model with channels scaled, as a float model and as what to quantize."""
    reference = model
    wanted = options.equalize != "auto" or _bytes(model) <= EQUALIZED_BYTES
    if options.equalizer is not None and wanted:
        reference, model = equalize(
            model, options.equalizer, data=data, threads=threads,
            weights=options.weights, activations=options.activations,
            per_channel=options.per_channel,
            least=SURE_GAIN if options.equalize == "auto" and options.per_channel else LEAST_GAIN,
        )  # fmt: skip
    if options.smooth == "auto" and reference is model:
        given = {"activations": options.activations, "weights": options.weights}
        reference = model = smooth(model, data=data, threads=threads, **given)
    return reference, model


def _check(model: Model, options: Options, mode: str, data: Any) -> None:
    """Refuse or mention what does not go with the mode."""
    if data is not None and mode != "static":
        log.warning("the samples are not used: none are needed for mode %s", mode)
    if options.equalize not in ("auto", "none") and (mode != "static" or data is None):
        raise UsageError("--equalize is for static quantization: give --data")
    if options.rounding == "sequential" and (mode != "static" or data is None):
        raise UsageError("--rounding sequential is for static quantization: give --data")
    if options.correct == "analytic" and not model.batch_norm:
        raise UsageError(
            "--correct analytic needs batch-norm statistics: give the .qtm that qtool freeze "
            "writes of a model with BatchNormalization"
        )
    if options.correct == "sequential" and (mode != "static" or data is None):
        raise UsageError("--correct sequential is for static quantization: give --data")
    if mode == "static" and model.statistics is not None and model.statistics.shards:
        part = ", ".join(model.statistics.shards)
        log.warning("the statistics are of shard %s only; qtool merge joins all of them", part)
    if options.format == "qoperator" and mode != "static":
        raise UsageError("--format qoperator is for static quantization: give --data or statistics")


def _calibrated(
    model: Model, data: Any, threads: int | None, progress: Any, options: Options
) -> Model:
    if data is None:
        raise UsageError(
            "static quantization needs statistics: give --data, or run qtool calibrate first"
        )
    more = {} if progress is None else {"progress": progress}
    wanted = options.rounding != "nearest" and not options.is_sequential(data)
    gram = wanted and _gram_bytes(model) <= GRAM_BYTES
    # A node that stays in float does not pass on the range of what it reads any more.
    partly = options.only or options.exclude or options.layers
    tensors = ("*",) if partly else None
    return calibrate(model, data=data, threads=threads, gram=gram, tensors=tensors, **more)


def _gram_bytes(model: Model) -> int:
    """Return the memory that all Gram matrices take."""
    layers = {layer.what: layer.state_bytes for layer in gram_layers(infer_shapes(model))}
    return sum(layers.values())


def _prepared(model: Model, needed: int) -> Model:
    """Return a copy whose tensors have types, at an opset of at least needed."""
    if opset(model) < needed:
        log.info("raising the opset from %d to %d", opset(model), needed)
        model = raise_opset(model, needed)
    return infer_shapes(model)


def _static(
    model: Model,
    options: Options,
    threads: int | None = None,
    samples: tuple[Model, Any, int, Any] | None = None,
) -> Model:
    statistics = model.statistics
    if statistics is None:
        raise ModelError("the model has no statistics; run qtool calibrate")
    if statistics.source == "random":
        log.warning("the ranges come from random samples: calibrate on real ones for accuracy")
    result, selection = _selected_copy(model, 21 if options.is_wide else 13, options)
    types = layer_types(result, options.layers)
    made = plan(result, _selected(selection), statistics, integer_outputs=options.integer_outputs)
    if any(node.op_type in ("QuantizeLinear", "QLinearConv") for node in all_nodes(model)):
        advice = "the model is quantized already: give the float one it was made from"
        if not made.nodes:
            raise ModelError(advice)
        log.warning("%s", advice)
    if not made.nodes:
        raise UnsupportedError(f"no node can be quantized: {_summary(made)}")
    qparams = [
        _qparams(group, statistics, _for_group(options, group, made, types))
        for group in made.groups
    ]
    rounder: WeightRounder | None = _rounder(result, statistics, options, threads, zeros=True)
    if rounder is None and options.correct in ("auto", "analytic"):
        rounder = expected_rounding(result)
    scheme = qdq.Scheme(
        options.activations,
        options.activation_symmetric,
        lambda weight, axis, users: _weight_qparams(
            weight, axis, _for_layer(options, of_weight(users, types)).scheme
        ),
        rounder if samples is None else None,
        options.target,
    )
    for node, reason in made.reasons.items():
        node.metadata_props[REASON_KEY] = reason
    for note in qdq.insert(result.graph, made, qparams, scheme):
        log.info(note)
    # Recurrent layers and those of subgraphs compute in float, with integer weights.
    weight_only.weight_only(result, selection.nodes, options.scheme)
    if samples is not None:
        _fit(result, options, types, *samples)
    return result


def _fit(
    result: Model,
    options: Options,
    types: Mapping[ir.Node, LayerType],
    reference: Model,
    data: Any,
    threads: int,
    progress: Any,
) -> None:
    """Round the weights of a quantized model layer after layer, in place."""

    def dtype_of(node: ir.Node) -> str | None:
        dtype = _for_layer(options, types.get(node)).weights
        return None if options.target and dtype.endswith("8") else dtype

    method = "descent" if options.rounding in ("auto", "sequential") else options.rounding
    names = round_sequentially(
        reference, result, dtype_of=dtype_of, data=data, threads=threads, progress=progress,
        search=_search(options, method, threads, zeros=True),
        corrects=options.correct in BY_SAMPLES,
    )  # fmt: skip
    log.info("fitted the weights of %d layers, front to back", len(names))


def _rounder(
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
    return Rounder(grams, _search(options, method, threads, zeros=zeros))


def _search(options: Options, method: str, threads: int | None, *, zeros: bool) -> Search:
    """Return how integers are searched; zero points are free where nothing was said of them."""
    free = options.weight_method is None
    zeros = zeros and free and options.weight_symmetric is None and options.format == "qdq"
    return Search(method, free, zeros, threads or cores())


def _for_layer(options: Options, kind: LayerType | None) -> Options:
    """Return the options for a layer of this type."""
    if kind is None:
        return options
    weights, activations = kind.weights(options.weights), kind.activations(options.activations)
    return replace(options, weights=weights, activations=activations)


def _for_group(
    options: Options, group: Group, made: Plan, types: Mapping[ir.Node, LayerType]
) -> Options:
    """Return the options for tensors: the most bits that a node which reads one asks for."""
    readers = [u for v in group.members for u in v.consumers() if v in made.activations(u)]
    return _for_layer(options, widest(readers, types))


def _selected(selection: Selection) -> Callable[[ir.Node], str | None]:
    return lambda node: selection.reasons.get(node_label(node))


def _summary(made: Plan) -> str:
    counts = Counter(made.reasons.values())
    return "; ".join(f"{n} x {reason}" for reason, n in counts.most_common(3)) or "it has none"


def _weight_qparams(weight: Any, axis: int | None, scheme: WeightScheme) -> QParams:
    return lookup(WEIGHT_METHODS, scheme.method, "weight method")(
        weight,
        dtype=scheme.dtype,
        axis=axis if scheme.per_channel else None,
        symmetric=scheme.symmetric,
        narrow=scheme.narrow,
    )


def _qparams(group: Group, statistics: Statistics, options: Options) -> QParams:
    """Return the qparams of a group: those it has, or those that the range method chooses."""
    fixed = qdq.fixed_qparams(group)
    if fixed is not None:
        return fixed
    if not options.activation_symmetric and all(_is_softmax(v) for v in group.observed):
        return _softmax_qparams(options.activations)
    low, high = _range(group, statistics, options)
    for constant in group.constants:
        values = np.asarray(array(constant))
        low = min(low, float(np.min(values, initial=0.0)))
        high = max(high, float(np.max(values, initial=0.0)))
    return from_range(low, high, options.activations, symmetric=options.activation_symmetric)


def _is_softmax(value: ir.Value) -> bool:
    producer = value.producer()
    return producer is not None and producer.op_type == "Softmax"


def _softmax_qparams(dtype: str) -> QParams:
    """Return a scale of one over the number of integers: with others QLinearSoftmax is biased."""
    qmin, qmax = limits(dtype)
    scale = np.asarray(1 / (qmax - qmin + 1), np.float32)
    return QParams(scale, np.asarray(qmin, np.int32), dtype)


def _range(group: Group, statistics: Statistics, options: Options) -> tuple[float, float]:
    found = merged([_found(value, statistics) for value in group.observed])
    made = statistics.source == "synthetic"
    method = "minmax" if group.keep_range or made else options.range
    qmin, qmax = limits(options.activations)
    choose = RANGES[method]
    low, high = choose(found, levels=qmax - qmin + 1, symmetric=options.activation_symmetric)
    stretch = STRETCH if made and group.keep_range else 1.0
    return low * stretch, high * stretch


def _found(value: ir.Value, statistics: Statistics) -> TensorStatistics:
    found = statistics.tensors.get(value.name or "")
    if found is None:
        raise ModelError(
            f"the statistics lack tensor {value.name!r}; calibrate again with --tensors '*'"
        )
    return found


def _dynamic(model: Model, options: Options) -> Model:
    """Let MatMul, Gemm and Conv compute in integers with ranges taken at run time."""
    result, selection = _selected_copy(model, dynamic.needed_opset(model, options.scheme), options)
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
    return _with_reasons(result, {**selection.reasons, **left, **reasons})


def _weight_only(model: Model, options: Options, threads: int | None = None) -> Model:
    needed = max(weight_only.needed_opset(model, options.scheme), 21 if options.is_wide else 0)
    result, selection = _selected_copy(model, needed, options)
    types = layer_types(result, options.layers)
    kinds = dict.fromkeys(types.get(node) for node in all_nodes(result) if node in selection)
    rounder = None
    if model.statistics is not None:
        rounder = _rounder(result, model.statistics, options, threads)
    reasons: dict[str, str] = {}
    for kind in kinds:
        nodes = {node for node in selection.nodes if types.get(node) == kind}
        scheme = _for_layer(options, kind).scheme
        reasons |= weight_only.weight_only(result, nodes, scheme, rounder)
    return _with_reasons(result, {**selection.reasons, **reasons})


def _auto(model: Model, options: Options) -> Model:
    """Quantize without statistics: MatMul and Gemm dynamically, other weights weight-only."""
    result, selection = _selected_copy(model, dynamic.needed_opset(model, options.scheme), options)
    reasons = dynamic.dynamic(result, selection.nodes, options.scheme)
    left = weight_only.weight_only(result, selection.nodes, options.scheme)
    n_dynamic = sum(n.op_type == "MatMulInteger" for n in all_nodes(result))
    log.info(
        "no statistics and no --data: %d MatMul/Gemm compute in integers, with ranges taken at "
        "run time; of the other layers only the weights are integers. To compute in integers "
        "everywhere: qtool quantize --input MODEL --data SAMPLES --output OUTPUT",
        n_dynamic,
    )
    return _with_reasons(result, {**selection.reasons, **left, **reasons})


def _selected_copy(model: Model, needed: int, options: Options) -> tuple[Model, Selection]:
    result = _prepared(model, needed)
    selection = select(result, options.only, options.exclude)
    kept = {n: k.option for n, k in layer_types(result, options.layers).items() if k.is_float}
    reasons = {node_label(node): option for node, option in kept.items()}
    chosen = Selection(selection.nodes - kept.keys(), {**reasons, **selection.reasons})
    return result, chosen


def _with_reasons(model: Model, reasons: dict[str, str]) -> Model:
    for node in all_nodes(model):
        reason = reasons.get(node_label(node))
        if reason is not None:
            node.metadata_props[REASON_KEY] = reason
    return model


def _forget_types(model: Model) -> None:
    """Drop the inferred types of tensors inside the graph, which would only cost bytes."""
    for node in all_nodes(model):
        for value in node.outputs:
            if not value.is_graph_output():
                value.type = value.shape = None


def _bytes(model: Model) -> int:
    return sum(
        v.const_value.nbytes for v in model.graph.initializers.values() if v.const_value is not None
    )
