"""Scale and zero point of the activations of a static model, from the statistics of tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import NamedTuple, Protocol

import numpy as np
import onnx_ir as ir

from qtool.errors import ModelError
from qtool.model import Statistics, TensorStatistics, array
from qtool.qparams import QParams, from_range, limits
from qtool.quant import qdq
from qtool.quant.layer_types import LayerType, widest
from qtool.quant.plan import Group, Plan
from qtool.stages._quantize_layers import for_layer
from qtool.stages.quantize_options import Options
from qtool.statistics.histogram import merged
from qtool.statistics.ranges import RANGES

STRETCH = 2.0  # of the range of outputs: made pictures evoke no class as photographs do


class Choose(Protocol):
    """Chooses the range of a group of tensors by more than their histogram."""

    def __call__(
        self,
        group: Group,
        statistics: TensorStatistics,
        make: Callable[[float, float], QParams],
        *,
        levels: int,
        symmetric: bool,
    ) -> tuple[float, float] | None:
        """Return (low, high), given what makes qparams of a range; None to leave it to others."""
        ...


class Ranged(NamedTuple):
    """The qparams of a group of tensors, and what their range follows.

    A range method, given (there were QuantizeLinear), softmax (all of 0 to 1), or outputs (what
    choose chose).
    """

    qparams: QParams
    follows: str


def group_ranges(
    made: Plan,
    statistics: Statistics,
    options: Options,
    types: Mapping[ir.Node, LayerType],
    choose: Choose | None = None,
) -> list[Ranged]:
    """Return the qparams of each group of tensors of a plan, in order, and what they follow.

    choose is asked first where the range method has the say.

    Raises:
        ModelError: the statistics lack a tensor.
    """
    return [
        _ranged(group, statistics, _for_group(options, group, made, types), choose)
        for group in made.groups
    ]


def _ranged(
    group: Group, statistics: Statistics, options: Options, choose: Choose | None
) -> Ranged:
    fixed = qdq.fixed_qparams(group)
    if fixed is not None:
        return Ranged(fixed, "given")
    if not options.activation_symmetric and all(_is_softmax(v) for v in group.observed):
        return Ranged(_softmax_qparams(options.activations), "softmax")
    chosen = _chosen(group, statistics, options, choose)
    if chosen is not None:
        return Ranged(_covering(*chosen, group, options), "outputs")
    ends = _range(group, statistics, options)
    method = _method(group, statistics, options)
    if method == "auto":
        whole = _range(group, statistics, replace(options, range="minmax"))
        method = "minmax" if ends == whole else "mse"
    return Ranged(_covering(*ends, group, options), method)


def _method(group: Group, statistics: Statistics, options: Options) -> str:
    made = statistics.source == "synthetic"
    return "minmax" if group.keep_range or made else options.range


def _for_group(
    options: Options, group: Group, made: Plan, types: Mapping[ir.Node, LayerType]
) -> Options:
    """Return the options for tensors: the most bits that a node which reads one asks for."""
    readers = [u for v in group.members for u in v.consumers() if v in made.activations(u)]
    return for_layer(options, widest(readers, types))


def _covering(low: float, high: float, group: Group, options: Options) -> QParams:
    """Return the qparams of a range that is widened to hold the constants of the group."""
    for constant in group.constants:
        values = np.asarray(array(constant))
        low = min(low, float(np.min(values, initial=0.0)))
        high = max(high, float(np.max(values, initial=0.0)))
    return from_range(low, high, options.activations, symmetric=options.activation_symmetric)


def _chosen(
    group: Group, statistics: Statistics, options: Options, choose: Choose | None
) -> tuple[float, float] | None:
    """Return what choose makes of a group, None where it has no say."""
    if choose is None or _method(group, statistics, options) != "auto":
        return None
    found = merged([_found(value, statistics) for value in group.observed])
    qmin, qmax = limits(options.activations)
    make = partial(_covering, group=group, options=options)
    return choose(
        group, found, make, levels=qmax - qmin + 1, symmetric=options.activation_symmetric
    )


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
    qmin, qmax = limits(options.activations)
    choose = RANGES[_method(group, statistics, options)]
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
