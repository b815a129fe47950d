"""LSTM, GRU and RNN: the products with all inputs at once, then the steps of each direction.

Shape legend: T steps, B sequences, I inputs, H the hidden size, D directions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from qtool.errors import UnsupportedError
from qtool.model import attribute
from qtool.runtime.lower.elementwise import UNARY
from qtool.runtime.lower.float_linear import matrix_product, require_plain_float
from qtool.runtime.lower.float_weights import FloatWeight, float_weight
from qtool.runtime.lower.functions import DEFAULTS
from qtool.runtime.lower.layout import dense
from qtool.runtime.lower.movement import joined, sliced
from qtool.runtime.lower.state import Lowering
from qtool.runtime.lower.values import Held
from qtool.runtime.program import Array, Tensor

ACTIVATIONS = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}
N_STATES = {"LSTM": 2, "GRU": 1, "RNN": 1}
#: Functions with the parameters that ONNX gives them here.
KNOWN = ("Sigmoid", "Tanh", "Relu", "HardSigmoid", "LeakyRelu", "Elu", "Softsign", "Softplus")


@dataclass(frozen=True)
class _Layer:
    """What the directions of a node have in common."""

    node: ir.Node
    x: Tensor  # (T, B, I)
    lengths: Tensor | None
    hidden: int
    functions: tuple[tuple[int, float, float], ...]  # of all directions: number, alpha, beta

    @property
    def kind(self) -> str:
        return self.node.op_type

    def input(self, i: int) -> ir.Value | None:
        return self.node.inputs[i] if i < len(self.node.inputs) else None


def recurrent(lowering: Lowering, node: ir.Node) -> None:
    """Lower LSTM, GRU and RNN."""
    if attribute(node, "input_forget", 0):
        raise UnsupportedError("its input and forget gates are coupled")
    if node.inputs[0] is None or lowering.dtype(node.inputs[0]) != "float32":
        raise UnsupportedError("its input is not float32")
    layer = _layer(lowering, node)
    backwards = {"forward": (0,), "reverse": (1,), "bidirectional": (0, 1)}[
        attribute(node, "direction", "forward")
    ]
    made = [_direction(lowering, layer, d, backward) for d, backward in enumerate(backwards)]
    swap = attribute(node, "layout", 0) == 1
    steps = _stacked(lowering, [y for y, *_ in made], 1)  # (T, D, B, H)
    results = [lowering.transposed(steps, (2, 0, 1, 3)) if swap else steps]
    for i in range(1, len(made[0])):  # the last states, (D, B, H)
        state = _stacked(lowering, [states[i] for states in made], 0)
        results.append(lowering.transposed(state, (1, 0, 2)) if swap else state)
    for value, tensor in zip(node.outputs, results, strict=False):
        lowering.give(value, Held(tensor))


def _layer(lowering: Lowering, node: ir.Node) -> _Layer:
    x = require_plain_float(lowering, node.inputs[0])
    x = lowering.transposed(x, (1, 0, 2)) if attribute(node, "layout", 0) else x
    hidden = lowering.shape(node.inputs[2])[-1]
    value = node.inputs[4] if len(node.inputs) > 4 else None
    known = lowering.known(value)
    full = value is None or (known is not None and bool((known >= x.shape[0]).all()))
    lengths = None if full else dense(lowering, lowering.plain(value))
    return _Layer(node, dense(lowering, x), lengths, hidden, _functions(node))


def _functions(node: ir.Node) -> tuple[tuple[int, float, float], ...]:
    names = attribute(node, "activations") or ACTIVATIONS[node.op_type]
    alphas = list(attribute(node, "activation_alpha") or ())
    betas = list(attribute(node, "activation_beta") or ())
    found = []
    for name in names:
        known = {k.lower(): k for k in KNOWN}.get(name.lower())
        if known is None:
            raise UnsupportedError(f"its activation is {name}")
        alpha, beta = DEFAULTS.get(known, (0.0, 0.0))
        if known in ("HardSigmoid", "LeakyRelu", "Elu"):
            alpha = alphas.pop(0) if alphas else alpha
        if known == "HardSigmoid":
            beta = betas.pop(0) if betas else beta
        found.append((UNARY[known], float(alpha), float(beta)))
    return tuple(found)


def _direction(lowering: Lowering, layer: _Layer, d: int, backward: int) -> tuple[Tensor, ...]:
    """Emit one direction and return y (T, B, H) and its last states (B, H)."""
    n = len(ACTIVATIONS[layer.kind])
    functions = layer.functions[d * n : (d + 1) * n] or layer.functions[:n]
    linear = bool(attribute(layer.node, "linear_before_reset", 0)) and layer.kind == "GRU"
    given, own = _biases(lowering, layer, d, linear=linear)
    weight = _weight(lowering, layer.node.inputs[1], d)
    bias = None if given is None else lowering.constant(given)
    gates = matrix_product(lowering, layer.x, weight, bias)
    r = _weight(lowering, layer.node.inputs[2], d)
    steps, batch, _ = layer.x.shape
    made = [lowering.make("float32", (steps, batch, layer.hidden))]
    made += [lowering.make("float32", (batch, layer.hidden)) for _ in range(N_STATES[layer.kind])]
    inputs = [gates, *r.tensors, _state(lowering, layer, 5, d), layer.lengths]
    if layer.kind == "LSTM":
        inputs += [_state(lowering, layer, 6, d), _peepholes(lowering, layer, d)]
    elif layer.kind == "GRU":
        inputs.append(None if own is None else lowering.constant(own))
    numbers = [f for f, _, _ in functions] + ([int(linear)] if layer.kind == "GRU" else [])
    floats = [v for _, *parameters in functions for v in parameters]
    code = layer.kind.title()
    clip = attribute(layer.node, "clip", 0.0) or 0.0
    lowering.emit(
        code, inputs, made, (backward, *numbers, *r.ints), (clip, *floats),
        macs=steps * batch * r.n * r.k,
    )  # fmt: skip
    return tuple(made)


def _weight(lowering: Lowering, value: ir.Value | None, d: int) -> FloatWeight:
    return float_weight(lowering, value, lambda w: w[d] if w.ndim > 1 else w, 1)


def _biases(
    lowering: Lowering, layer: _Layer, d: int, *, linear: bool
) -> tuple[Array | None, Array | None]:
    """Return the bias of x W^T, (n_gates H,), and that of h R_h^T where it is apart, (H,)."""
    value = layer.input(3)
    if value is None:
        return None, None
    of_w, of_r = np.split(lowering.need(value, "bias")[d].astype(np.float32), 2)
    own = None
    if linear:
        own = np.ascontiguousarray(of_r[2 * layer.hidden :])
        of_r = np.concatenate([of_r[: 2 * layer.hidden], np.zeros_like(own)])
    return of_w + of_r, own


def _state(lowering: Lowering, layer: _Layer, i: int, d: int) -> Tensor:
    """Return the initial state of a direction, (B, H)."""
    batch = layer.x.shape[1]
    value = layer.input(i)
    if value is None:
        return lowering.constant(np.zeros((batch, layer.hidden), np.float32))
    state = require_plain_float(lowering, value)
    if attribute(layer.node, "layout", 0):
        state = lowering.transposed(state, (1, 0, 2))
    dims = (1, batch, layer.hidden)
    part = sliced(lowering, Held(state), (d, 0, 0), (1, 1, 1), dims)
    return dense(lowering, part.tensor).viewed(dims[1:])


def _peepholes(lowering: Lowering, layer: _Layer, d: int) -> Tensor | None:
    value = layer.input(7)
    if value is None:
        return None
    weights = lowering.need(value, "peephole weight")[d].astype(np.float32)
    return lowering.constant(np.ascontiguousarray(weights)) if weights.any() else None


def _stacked(lowering: Lowering, tensors: Sequence[Tensor], axis: int) -> Tensor:
    """Return tensors of the directions, one after the other along a new axis."""
    parts = [Held(t.viewed((*t.shape[:axis], 1, *t.shape[axis:]))) for t in tensors]
    return parts[0].tensor if len(parts) == 1 else joined(lowering, parts, axis).tensor
