"""Types for single layers: what --layer PATTERN=TYPE means.

TYPE is float, or w3, w4, w8, a8, a16, or two of these together: w4a16.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from qtool.errors import UsageError
from qtool.model import Model
from qtool.quant.selection import check_patterns, matching

FLOAT = "float"
_TYPE = re.compile(r"(?=.)(?:w([348]))?(?:a(8|16))?")


@dataclass(frozen=True)
class LayerType:
    """What the integers of one layer are; None where the options for all layers say it.

    option is what was typed, for the reason of a layer that stays in float.
    """

    option: str
    is_float: bool = False
    weight_bits: int | None = None
    activation_bits: int | None = None

    def weights(self, otherwise: str) -> str:
        """Return the layer's integer type of weights, signed as the one for all layers."""
        return _with_bits(otherwise, self.weight_bits)

    def activations(self, otherwise: str) -> str:
        """Return the integer type of what the layer reads, signed as the one for all layers."""
        return _with_bits(otherwise, self.activation_bits)


def parse(text: str) -> tuple[str, LayerType]:
    """Return the pattern and the type of "PATTERN=TYPE".

    Raises:
        UsageError: it has no "=", or the type is none.
    """
    pattern, found, name = text.rpartition("=")
    match = _TYPE.fullmatch(name)
    if not found or not (match or name == FLOAT):
        raise UsageError(
            f"--layer {text!r} is not PATTERN=TYPE, with TYPE float, w3, w4, w8, a8, a16 or w4a16"
        )
    check_patterns([pattern])
    option = f"--layer {text}"
    if match is None:
        return pattern, LayerType(option, is_float=True)
    bits = [None if digits is None else int(digits) for digits in match.groups()]
    return pattern, LayerType(option, False, *bits)


def layer_types(model: Model, layers: Sequence[str]) -> dict[ir.Node, LayerType]:
    """Return the type of each node that a pattern of layers matches; the last one counts.

    Raises:
        UsageError: an entry is malformed, or its pattern matches nothing.
    """
    found: dict[ir.Node, LayerType] = {}
    parsed = [parse(text) for text in layers]
    nodes = matching(model, "--layer", [pattern for pattern, _ in parsed]) if parsed else []
    for matched, (_, kind) in zip(nodes, parsed, strict=True):
        found |= dict.fromkeys(matched, kind)
    return found


def of_weight(users: Iterable[ir.Node], types: Mapping[ir.Node, LayerType]) -> LayerType | None:
    """Return the type of the first of a weight's readers that has one."""
    return next((types[node] for node in users if node in types), None)


def widest(readers: Iterable[ir.Node], types: Mapping[ir.Node, LayerType]) -> LayerType | None:
    """Return the type of most activation bits among the readers of a tensor."""
    found = [types[node] for node in readers if node in types and types[node].activation_bits]
    return max(found, key=lambda kind: kind.activation_bits or 0, default=None)


def _with_bits(dtype: str, bits: int | None) -> str:
    return dtype if bits is None else f"{dtype.rstrip('0123456789')}{bits}"
