"""Which channels can be shifted by an offset, so that a model stays the same function.

A channel whose values never fall below c goes through a Relu, a pooling or a Concat as x - c; the
layer that makes it takes c from its bias, those that read it add what their weights make of c
(high-bias absorption, Nagel et al., arXiv 1906.04721, section 4.1.3). Zeros that a layer pads with
would be c afterwards, and a sum would carry the offsets of all operands: what meets these stays.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import onnx_ir as ir

from qtool.model import Model, array, attribute
from qtool.quant.ties import RULES, Builder, Rule, Side, Ties, bounds, through


def offset_ties(model: Model) -> Ties:
    """Return which channels share one offset, of a model whose tensors have known shapes."""
    return Builder(model, _RULES, _pins).all()


def _pins(layer: ir.Node) -> Mapping[ir.Value, str]:
    """Return the tensors of a layer that cannot be shifted."""
    x, y = layer.inputs[0], layer.outputs[0]
    assert x is not None
    if layer.op_type == "MatMul":
        return dict.fromkeys((x, y), "a MatMul has no bias")
    return {x: "a padded Conv reads it"} if layer.op_type == "Conv" and _padded(layer) else {}


def _padded(conv: ir.Node) -> bool:
    mode = attribute(conv, "auto_pad", "NOTSET")
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        weight = array(conv.inputs[1])
        return weight is None or max(weight.shape[2:], default=1) > 1
    return mode == "NOTSET" and any(attribute(conv, "pads", ()))


def _average(node: ir.Node) -> Iterable[tuple[Side, Side]] | None:
    """Tie what an average passes: all but one that counts zeros of its padding."""
    mode, counted = attribute(node, "auto_pad", "NOTSET"), attribute(node, "count_include_pad", 0)
    plain = mode in ("NOTSET", "VALID") and not any(attribute(node, "pads", ()))
    plain = plain and not attribute(node, "ceil_mode", 0)
    return through(node) if plain or not counted else None


def _pad(node: ir.Node) -> Iterable[tuple[Side, Side]] | None:
    return RULES["Pad"](node) if attribute(node, "mode", "constant") != "constant" else None


def _clip(node: ir.Node) -> Iterable[tuple[Side, Side]] | None:
    """Tie what a Clip from 0 to a limit passes: the limit moves along."""
    return RULES["Clip"](node) if bounds(node)[0] == 0 and np.isfinite(bounds(node)[1]) else None


_RULES: dict[str, Rule] = {
    **{name: rule for name, rule in RULES.items() if name not in ("Add", "Sub")},
    "AveragePool": _average,
    "Pad": _pad,
    "Clip": _clip,
}
