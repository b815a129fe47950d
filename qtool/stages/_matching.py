"""A model whose layers see made inputs as they saw real ones, by batch-norm statistics.

freeze keeps, of each BatchNormalization that it folds, mean and standard deviation of what it gave,
which training had made of real data. On made inputs the same channels have others; scaling and
shifting the layers that make them until they agree, front to back, gives each layer behind inputs
with the right first two moments.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from qtool import hessian
from qtool.model import BatchNormStatistics, Model, Names, add_initializer, array
from qtool.quant.ties import LAYERS
from qtool.runtime.ort import OrtSession
from qtool.runtime.outputs import prefix
from qtool.runtime.sweep import sweep
from qtool.stages._channel_sums import ChannelSums

log = logging.getLogger("qtool")

Array = npt.NDArray[Any]
Progress = Callable[[Iterable[Any], str, "int | None"], Iterable[Any]]
SAMPLES = 64  # whose moments are known well enough
MOST = 16.0  # times that a channel is scaled at most: one that nothing excites stays quiet


def matched(model: Model, *, data: Sequence[Any], threads: int, progress: Progress) -> Model:
    """Return the model with layers scaled and shifted to the statistics that it carries.

    Only for observing it: it is another function. Without statistics it is the model itself.
    """
    layers = [node for node in model.graph if node.outputs[0].name in model.batch_norm]
    if not any(map(_can_follow, layers)):
        return model
    result = model.copy()
    names = Names(result.graph)
    layers = [n for n in result.graph if n.outputs[0].name in model.batch_norm and _can_follow(n)]
    samples = [partial(data.__getitem__, i) for i in range(min(SAMPLES, len(data)))]
    for node in progress(layers, "matching batch-norm statistics", len(layers)):
        known = model.batch_norm[node.outputs[0].name or ""]
        _follow(node, known, _moments(result, node.outputs[0], samples, threads), names)
    log.info("%d layers follow their batch-norm statistics", len(layers))
    return result


def _can_follow(node: ir.Node) -> bool:
    if node.op_type not in LAYERS or array(node.inputs[1]) is None:
        return False
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    return node.op_type != "MatMul" and (bias is None or array(bias) is not None)


def _moments(
    model: Model, value: ir.Value, samples: Sequence[Callable[[], Any]], threads: int
) -> tuple[Array, Array]:
    name, sums, lock = value.name or "", ChannelSums(), threading.Lock()
    session = OrtSession(Model(prefix(model.ir, [name])), outputs=[name])

    def see(_: Any, outputs: Mapping[str, Array]) -> None:
        with lock:
            sums.add(outputs[name])

    sweep(session, samples, see, threads=threads)
    found = sums.finish()
    return found.mean, np.sqrt(found.variance)


def _follow(
    node: ir.Node, known: BatchNormStatistics, found: tuple[Array, Array], names: Names
) -> None:
    """Scale and shift what a layer gives from the moments found to those known."""
    mean, std = found
    ratio = known.std / np.maximum(std, 1e-12)
    ratio = np.where(ratio > MOST, 1.0, ratio)
    weight = np.asarray(array(node.inputs[1]))
    bias = array(node.inputs[2]) if len(node.inputs) > 2 else None
    layout = hessian.rows_of(node)
    rows = layout.of(weight).astype(np.float64)
    scaled = layout.back(rows * ratio.reshape(*rows.shape[:2], 1), weight.shape)
    before = 0.0 if bias is None else np.asarray(bias).ravel().astype(np.float64)
    shifted = (before - mean) * ratio + known.mean
    _replace(node, 1, scaled, names)
    _replace(node, 2, shifted, names)


def _replace(node: ir.Node, index: int, values: Array, names: Names) -> None:
    assert node.graph is not None
    name = names(f"{node.outputs[0].name}_matched")
    value = add_initializer(node.graph, name, values.astype(np.float32))
    if index >= len(node.inputs):
        node.resize_inputs(index + 1)
    node.replace_input_with(index, value)
