"""freeze: a graph as it comes from training becomes the same function ready for inference."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from os import PathLike, fspath
from typing import Any

import onnx_ir as ir

from qtool.errors import ModelError
from qtool.model import Model, all_nodes, constant, opset
from qtool.passes import PASSES
from qtool.passes.check_nodes import check_nodes
from qtool.passes.checkpoint import bind_weights, parameters
from qtool.passes.constants import bind_defaults
from qtool.passes.cut_outputs import cut_outputs
from qtool.passes.inference_form import inference_form
from qtool.passes.opset import raise_opset
from qtool.passes.rewriting import scratch
from qtool.passes.set_dims import set_dims
from qtool.registry import lookup
from qtool.shapes import infer_shapes, tensor_bytes
from qtool.stages.freeze_check import check as compare

log = logging.getLogger("qtool")

OPSET = 13  # the first with a scale per channel in QuantizeLinear
CHECK_BYTES = 1 << 30  # of weights; larger models are checked only on request
MAX_ROUNDS = 50


def freeze(
    model: Model,
    *,
    weights: str | PathLike[str] | None = None,
    dims: Mapping[str, int] | None = None,
    outputs: Sequence[str] = (),
    passes: Sequence[str] = tuple(PASSES),
    check: bool | None = None,
    data: Any = None,
    seed: int = 0,
) -> Model:
    """Return the model with constant weights, in inference form, folded and cleaned.

    Binds the checkpoint weights, sets dims, cuts at outputs, puts BatchNormalization and Dropout
    into inference form, raises the opset to 13 or more, and then runs the passes until none finds
    anything. It computes the same outputs up to float rounding: check runs both and compares; None
    means to do so up to 1 GB of weights. data gives the inputs for it: Samples, a function that
    opens them for a model (its inputs are those left to feed), or None for random inputs.
    Calibration statistics belong to the model before, and are dropped; those of folded
    BatchNormalizations are kept in batch_norm.

    Raises:
        UsageError: a pass, dim or output does not exist.
        ModelError: a node is malformed, the weights do not fit, or the check failed.
        UnsupportedError: an operator cannot be brought to the opset or to inference form.
    """
    chosen = [lookup(PASSES, name, "pass") for name in passes]
    check_nodes(model)
    if not model.graph.outputs and not outputs:
        raise ModelError("the model has no outputs; name tensors that are, with --outputs")
    trained = _prepared(model, weights, dims or {}, outputs)
    before = inference_form(trained)
    if before is not trained:
        log.info("training nodes were put into inference form: compare with the inference outputs")
    after = raise_opset(infer_shapes(bind_defaults(before)), OPSET)
    if opset(after) != opset(before):
        log.info("raised the opset from %d to %d", opset(before), opset(after))
    after = _finished(_to_fixed_point(after, chosen))
    if check is None:
        check = _weight_bytes(after) <= CHECK_BYTES
        if not check:
            log.info("not checked, for the model is larger than 1 GB; --check does it all the same")
    if check:
        compare(before, after, data=data(before) if callable(data) else data, seed=seed)
    options = _options(weights=weights and fspath(weights), dims=dims, outputs=list(outputs))
    if tuple(passes) != tuple(PASSES):
        options["passes"] = list(passes)
    return after.then("freeze", options)


def _prepared(
    model: Model,
    weights: str | PathLike[str] | None,
    dims: Mapping[str, int],
    outputs: Sequence[str],
) -> Model:
    """Return the model that is to be frozen: what the options ask for, and nothing else."""
    if model.statistics is not None:
        log.info("calibration statistics were dropped: they belong to the model before freezing")
    prepared = set_dims(replace(model, statistics=None), dims)
    if weights is not None:
        prepared = bind_weights(prepared, weights)
    fed = {spec.name for spec in prepared.inputs()}
    unbound = [name for name in parameters(prepared) if name in fed]
    if unbound:
        log.warning(
            "%d inputs look like weights (%s); bind them with --weights FILE, or they stay inputs",
            len(unbound), ", ".join(unbound[:3]) + ", ..." * (len(unbound) > 3),
        )  # fmt: skip
    return cut_outputs(prepared, outputs)


def _options(**given: Any) -> dict[str, Any]:
    return {key: value for key, value in given.items() if value}


def _to_fixed_point(model: Model, passes: Iterable[Any]) -> Model:
    """Run the passes until a round changes nothing; each round sees fresh shapes."""
    passes = list(passes)
    for _ in range(MAX_ROUNDS):
        model = start = infer_shapes(model)
        for run in passes:
            with scratch(model):
                model = run(model)
        if model is start:
            return model
    raise ModelError(
        f"the passes did not settle in {MAX_ROUNDS} rounds; leave some out with --pass"
    )


def _finished(model: Model) -> Model:
    """Keep only the BatchNormalization statistics of tensors that still exist."""
    names = {value.name for node in all_nodes(model) for value in node.outputs}
    kept = {name: known for name, known in model.batch_norm.items() if name in names}
    return replace(model, batch_norm=kept)


def _constants(model: Model) -> list[ir.TensorProtocol]:
    """Return the tensors of all initializers and Constant nodes."""
    found = [v.const_value for graph in model.ir.graphs() for v in graph.initializers.values()]
    found += [constant(n.outputs[0]) for n in all_nodes(model) if n.op_type == "Constant"]
    return [tensor for tensor in found if tensor is not None]


def _weight_bytes(model: Model) -> int:
    return sum(map(tensor_bytes, _constants(model)))


def summary(before: Model, after: Model) -> list[tuple[str, str, str]]:
    """Return rows of what, before, after: nodes by op type, parameters, bytes, opset."""
    counts = [Counter(node.op_type for node in all_nodes(model)) for model in (before, after)]
    ops = sorted(counts[0] | counts[1], key=lambda op: (-counts[1][op], -counts[0][op], op))
    rows = [(op, f"{counts[0][op]:,}", f"{counts[1][op]:,}") for op in ops]
    totals = (("nodes", _n_nodes), ("parameters", _n_parameters), ("weight bytes", _weight_bytes),
              ("opset", opset))  # fmt: skip
    return rows + [(name, f"{count(before):,}", f"{count(after):,}") for name, count in totals]


def _n_nodes(model: Model) -> int:
    return sum(1 for _ in all_nodes(model))


def _n_parameters(model: Model) -> int:
    """Count the elements of the floating-point constants."""
    return sum(t.size for t in _constants(model) if t.dtype.is_floating_point())
