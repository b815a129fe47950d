"""Conv, ConvTranspose, Gemm and MatMul with a constant weight, seen alike.

Shape legend: a weight is seen as (G, A, B, K): groups, its two channel axes in the order they are
stored, and the kernel's elements. C_in = G * B and C_out = G * A, or the other way round.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from qtool.model import attribute, constant
from qtool.passes.rewriting import Array, Editor, owned, rank
from qtool.passes.tensors import derived, dims, read

Float64 = npt.NDArray[np.float64]

FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE)
LINEAR = ("Conv", "ConvTranspose", "Gemm", "MatMul")
WEIGHT, BIAS = 1, 2  # the inputs; a MatMul has no bias


@dataclass(frozen=True)
class Linear:
    """A node that multiplies its first input by a constant weight, and the weight's layout."""

    node: ir.Node
    weight: ir.TensorProtocol
    layout: tuple[int, int, int, int]  # (G, A, B, K)
    out_first: bool  # A runs over output channels, B over input channels

    @property
    def n_inputs(self) -> int:
        """C_in."""
        return self.layout[0] * self.layout[2 if self.out_first else 1]

    @property
    def n_outputs(self) -> int:
        """C_out."""
        return self.layout[0] * self.layout[1 if self.out_first else 2]

    @property
    def rank(self) -> int | None:
        """The rank of the op's input and output, None when unknown."""
        if self.node.op_type == "MatMul":
            return rank(self.node.inputs[0])
        return 2 if self.node.op_type == "Gemm" else len(dims(self.weight))

    @property
    def axis(self) -> int:
        """The channel axis of the op's input and output."""
        return -1 if self.node.op_type in ("Gemm", "MatMul") else 1

    def bias(self) -> Float64 | None:
        """Return the bias as (C_out,), zeros if there is none; None if it is no constant."""
        value = self.node.inputs[BIAS] if len(self.node.inputs) > BIAS else None
        if value is None:
            return np.zeros(self.n_outputs)
        tensor = constant(value)
        if tensor is None or attribute(self.node, "beta", 1.0) != 1.0:
            return None
        if dims(tensor) not in ((), (1,), (1, 1), (self.n_outputs,), (1, self.n_outputs)):
            return None
        return np.broadcast_to(read(tensor).astype(np.float64).ravel(), (self.n_outputs,))

    def applied(self, b: Float64) -> Float64:
        """Return W b, of shape (C_out,), for b of one number for each input channel."""
        weight = read(self.weight).reshape(self.layout).astype(np.float64).sum(3)
        formula = "goi,gi->go" if self.out_first else "gio,gi->go"
        sums: Float64 = np.einsum(formula, weight, b.reshape(self.layout[0], -1))
        return sums.ravel()

    def scale(self, k: Float64, editor: Editor, *, outputs: bool) -> None:
        """Multiply the weight by k, one factor for each output or each input channel."""
        groups = self.layout[0]
        shape = (groups, -1, 1, 1) if outputs == self.out_first else (groups, 1, -1, 1)

        def compute(weight: Array) -> Array:
            return weight.reshape(self.layout) * k.reshape(shape)

        scaled = derived(compute, self.weight, dtype=self.weight.dtype, shape=dims(self.weight))
        editor.set_constant(self.node, WEIGHT, f"{self.node.outputs[0].name}_weight", scaled)

    def set_bias(self, bias: Float64, editor: Editor) -> None:
        """Give the node a bias of shape (C_out,); a MatMul of rank 2 becomes a Gemm."""
        self.node.op_type = "Gemm" if self.node.op_type == "MatMul" else self.node.op_type
        values = ir.Tensor(bias.astype(self.weight.dtype.numpy()), dtype=self.weight.dtype)
        editor.set_constant(self.node, BIAS, f"{self.node.outputs[0].name}_bias", values)

    @property
    def takes_bias(self) -> bool:
        """Whether a bias can be added."""
        return self.node.op_type != "MatMul" or self.rank == 2

    @property
    def owns_weight(self) -> bool:
        """Whether the weight may change: nothing else reads it."""
        value = self.node.inputs[WEIGHT]
        return value is not None and owned(value)

    @property
    def pads_with_zeros(self) -> bool:
        """Whether some outputs do not see every input channel at every kernel position."""
        if self.node.op_type == "ConvTranspose":
            return True
        automatic = attribute(self.node, "auto_pad", "NOTSET") not in ("NOTSET", "VALID")
        return automatic or any(attribute(self.node, "pads", ()))


def linear_of(node: ir.Node | None) -> Linear | None:
    """Return a node as a linear op, or None when it is none."""
    if node is None or node.domain != "" or node.op_type not in LINEAR or len(node.inputs) < 2:
        return None
    weight = constant(node.inputs[WEIGHT])
    if weight is None or weight.dtype not in FLOATS:
        return None
    shape = dims(weight)
    if node.op_type in ("Gemm", "MatMul"):
        if len(shape) != 2 or attribute(node, "alpha", 1.0) != 1.0 or attribute(node, "transA", 0):
            return None
        return Linear(node, weight, (1, *shape, 1), bool(attribute(node, "transB", 0)))
    groups = attribute(node, "group", 1)
    if len(shape) < 3 or groups < 1 or shape[0] % groups or 0 in shape:
        return None
    layout = (groups, shape[0] // groups, shape[1], int(np.prod(shape[2:])))
    return Linear(node, weight, layout, node.op_type == "Conv")
