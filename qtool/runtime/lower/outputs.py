"""Where the float result of a node goes: a QuantizeLinear after it becomes part of its op."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from qtool.model import attribute, dtype_name
from qtool.qparams import QParams, quantize
from qtool.runtime.lower.state import SHIFT, Lowering, scalar_qparams
from qtool.runtime.lower.values import Held
from qtool.runtime.program import Tensor

MAX_HOPS = 16


@dataclass(frozen=True)
class Output:
    """The integers that a QuantizeLinear after a node, and clamps between, make of its result.

    scale, zero_point, low and high are of elements of dtype; int8 ones are shifted to uint8.
    """

    values: tuple[ir.Value, ...]  # that these integers are, all the same
    through: tuple[ir.Node, ...]  # nodes that are part of it
    qparams: QParams
    low: int
    high: int

    @property
    def dtype(self) -> str:
        """The element type in memory."""
        return "uint8" if self.qparams.dtype == "int8" else self.qparams.dtype

    @property
    def scale(self) -> np.float32:
        """The step between two integers."""
        return scalar_qparams(self.qparams)[0]

    @property
    def zero_point(self) -> int:
        """The element that stands for 0."""
        return scalar_qparams(self.qparams)[1]

    def give(self, lowering: Lowering, tensor: Tensor, *, channels_last: bool) -> None:
        """Make a tensor of these integers the result."""
        held = Held(tensor, channels_last, shifted=self.qparams.dtype == "int8")
        for value in self.values:
            lowering.give(value, held)
        lowering.done.update(self.through)


BYTES = ("int8", "uint8")
WIDE = (*BYTES, "int16", "uint16")


def give(
    lowering: Lowering, node: ir.Node, output: Output | None, y: Tensor, *, channels_last: bool
) -> None:
    """Make a tensor the output of a node, or what its output is quantized to."""
    if output is None:
        lowering.give(node.outputs[0], Held(y, channels_last))
    else:
        output.give(lowering, y, channels_last=channels_last)


def output_of(lowering: Lowering, value: ir.Value, dtypes: Sequence[str] = BYTES) -> Output | None:
    """Return what quantizes a value per tensor to one of these types, if nothing else reads it."""
    clamps: list[ir.Node] = []
    for _ in range(MAX_HOPS):
        users = list(value.consumers())
        if value.is_graph_output() or not users:
            return None
        if all(user.op_type == "QuantizeLinear" for user in users):
            return _quantized(lowering, clamps, users, dtypes)
        if len(users) > 1 or users[0].op_type not in ("Relu", "Clip"):
            return None
        clamps.append(users[0])
        value = users[0].outputs[0]
    return None


def becomes_wide(lowering: Lowering, value: ir.Value) -> bool:
    """Return whether a value is quantized to 16 bits, and nothing else reads it."""
    output = output_of(lowering, value, WIDE)
    return output is not None and output.dtype != "uint8"


def _quantized(
    lowering: Lowering, clamps: list[ir.Node], users: list[ir.Node], dtypes: Sequence[str]
) -> Output | None:
    found = [qparams_of(lowering, user) for user in users]
    first = found[0]
    if first is None or first.dtype not in dtypes or first.scale.ndim:
        return None
    for other in found[1:]:
        if other is None or other.dtype != first.dtype or other.scale.ndim:
            return None
        if other.scale != first.scale or other.zero_point != first.zero_point:
            return None
    low, high = first.limits
    for clamp in clamps:
        bounds = clamp_bounds(lowering, clamp)
        if bounds is None:
            return None
        # Quantization is monotone: Q(clip(x, a, b)) = clip(Q(x), Q(a), Q(b)).
        least, most = (int(quantize(bound, first)) for bound in bounds)
        low, high = min(max(low, least), most), min(max(high, least), most)
    shift = SHIFT if first.dtype == "int8" else 0
    outputs = tuple(user.outputs[0] for user in users)
    return Output(outputs, (*clamps, *users), first, low + shift, high + shift)


def clamp_bounds(lowering: Lowering, clamp: ir.Node) -> tuple[float, float] | None:
    """Return the bounds of a Relu or Clip; None where they are computed at run time."""
    if clamp.op_type == "Relu":
        return 0.0, np.inf
    bounds = [float(attribute(clamp, "min", -np.inf)), float(attribute(clamp, "max", np.inf))]
    for i, value in enumerate(clamp.inputs[1:3]):
        if value is not None:
            known = lowering.known(value)
            if known is None or known.size != 1:
                return None
            bounds[i] = float(known.reshape(-1)[0])
    return bounds[0], bounds[1]


def qparams_of(lowering: Lowering, node: ir.Node, *, blocks: bool = False) -> QParams | None:
    """Return the qparams of a QuantizeLinear or DequantizeLinear; None where they are computed.

    With blocks scale and zero point stay of the integers' rank; without, None in blocks as well.
    """
    scale = lowering.known(node.inputs[1])
    if scale is None or (attribute(node, "block_size", 0) and not blocks):
        return None
    has_zero = len(node.inputs) > 2 and node.inputs[2] is not None
    zero = lowering.known(node.inputs[2]) if has_zero else None
    if has_zero and zero is None:
        return None
    integers = node.outputs[0] if node.op_type == "QuantizeLinear" else node.inputs[0]
    if zero is not None:
        dtype = str(zero.dtype)
    elif node.op_type == "DequantizeLinear":
        dtype = lowering.dtype(node.inputs[0])
    else:
        dtype = "uint8" if integers is None or not integers.dtype else dtype_name(integers.dtype)
    zeros = np.zeros(scale.shape, np.int32) if zero is None else zero.astype(np.int32)
    if scale.size == 1 and not blocks:
        scale, zeros = scale.reshape(()), zeros.reshape(())
    axis = attribute(node, "axis", 1) if scale.ndim else None
    return QParams(scale.astype(np.float32), zeros, dtype, axis)
