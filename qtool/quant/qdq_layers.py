"""Weights and biases of the layers that compute in integers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from qtool.model import array, attribute, constant
from qtool.qparams import QParams, broadcast, quantize
from qtool.quant.channels import channel_axis, output_scale
from qtool.quant.layer_rounding import Rounded, WeightRounder
from qtool.quant.op_rules import rule_of, weight_index
from qtool.quant.pair_sums import SHIFTS, hazard_channels
from qtool.quant.qdq_constants import Constants, read_qparams
from qtool.quant.selection import node_label
from qtool.quant.weights import to_storage
from qtool.shapes import tensor_shape

INT32_MAX = 2**31 - 1
SEVEN_BITS = 63.5  # the largest weight, in steps: it may round up to 64, and 255 * 128 fits int16

Float32 = npt.NDArray[np.float32]
# weight, channel axis and the nodes that read it -> qparams
ChooseWeight = Callable[[Float32, "int | None", Sequence[ir.Node]], QParams]
InputQParams = Callable[[ir.Node], QParams | None]  # of the activations that a layer reads
Biased = Mapping[ir.Node, ir.Node]  # MatMul -> the Add of its bias

Weights = dict[tuple[ir.Value, int | None], list[ir.Node]]


def weights_of(nodes: Iterable[ir.Node]) -> Weights:
    """Return the weights with their channel axis, and the nodes that read each.

    A weight that is behind a DequantizeLinear already is listed with axis None.
    """
    found: Weights = {}
    for node in nodes:
        index = weight_index(node)
        weight = None if index is None else node.inputs[index]
        if index is None or weight is None:
            continue
        tensor = constant(weight)
        axis = None if tensor is None else channel_axis(node, index, tensor_shape(tensor))
        found.setdefault((weight, axis), []).append(node)
    return found


def quantize_weight(
    key: tuple[ir.Value, int | None],
    users: Sequence[ir.Node],
    constants: Constants,
    choose: ChooseWeight,
    input_qparams: InputQParams,
    rounder: WeightRounder | None = None,
    biased: Biased | None = None,
    target: str | None = None,
) -> list[str]:
    """Quantize one weight and the biases of the nodes that read it; return what to tell users.

    With a rounder that knows their inputs, the biases take up the mean error of the rounding. For
    target avx2, channels whose sums of pairs could leave int16 get 7 bits.
    """
    weight, axis = key
    notes: list[str] = []
    biased = biased or {}
    if constant(weight) is None:
        qparams = read_qparams(weight.producer())
    else:
        values = np.asarray(array(weight)).astype(np.float32, copy=False)
        qparams, notes = guarded(values, choose(values, axis, users), users, input_qparams)
        rounded = _rounded(values, qparams, users, rounder, biased)
        if target is not None:
            narrower = narrowed(values, rounded, qparams, users, input_qparams)
            if narrower is not None:
                notes.append(f"{node_label(users[0])}: {narrower[1]}")
                rounded = _rounded(values, narrower[0], users, rounder, biased)
                qparams = narrower[0]
        qparams = qparams if rounded is None else rounded.qparams
        integers = None if rounded is None else rounded.integers
        dequantized = constants.dequantized(weight, values, qparams, integers)
        for node in users:
            node.replace_input_with(weight_index(node) or 1, dequantized)
            if rounded is not None and rounded.shift is not None:
                _shift_bias(node, rounded.shift, constants, biased)
    for node in users:
        x = input_qparams(node)
        if qparams is not None and x is not None:
            _quantize_bias(node, x, qparams, constants)
    return notes


def _rounded(
    values: Float32,
    qparams: QParams,
    users: Sequence[ir.Node],
    rounder: WeightRounder | None,
    biased: Biased,
) -> Rounded | None:
    if rounder is None:
        return None
    corrects = all(node in biased or _takes_bias(node) for node in users)
    return rounder(values, qparams, users, corrects=corrects)


def narrowed(
    values: Float32,
    rounded: Rounded | None,
    qparams: QParams,
    users: Sequence[ir.Node],
    input_qparams: InputQParams,
) -> tuple[QParams, str] | None:
    """Return qparams with 7 bits for the channels that saturate on AVX2, and what to say of them.

    None where there are none: 16-bit activations, other weights than int8, depthwise layers, and
    channels whose neighbouring weights are small enough.
    """
    integers = to_storage(values, qparams) if rounded is None else rounded.integers
    found: set[int] = set()
    for node in users:
        x = input_qparams(node)
        depthwise = node.op_type == "Conv" and values.shape[1] == 1 < attribute(node, "group", 1)
        if x is None or qparams.dtype != "int8" or x.dtype not in SHIFTS or depthwise:
            continue
        found |= set(hazard_channels(integers, node, x.limits[1] + SHIFTS[x.dtype])[0])
    if not found:
        return None
    scale = (qparams if rounded is None else rounded.qparams).scale
    at = np.isin(np.arange(scale.size), sorted(found)) if scale.ndim else np.ones((), bool)
    scale = np.where(at, scale * np.float32(qparams.limits[1] / SEVEN_BITS), scale)
    said = f"7 bits for {len(found)} channels that would saturate on AVX2"
    return replace(qparams, scale=scale.astype(np.float32)), said


def _takes_bias(node: ir.Node) -> bool:
    rule = rule_of(node)
    return rule is not None and rule.bias is not None


def _shift_bias(
    node: ir.Node, shift: npt.NDArray[np.float64], constants: Constants, biased: Biased
) -> None:
    """Add to the bias of a layer, real, of shape (C_out,); a layer without one gets it."""
    name = f"{node.outputs[0].name}_bias"
    if node in biased:
        add = biased[node]
        index = 0 if constant(add.inputs[0]) is not None else 1
        old = np.asarray(array(add.inputs[index]))
        values = (old.reshape(-1) + shift).astype(old.dtype)
        add.replace_input_with(index, constants.added(name, values))
        return
    rule, bias = rule_of(node), _bias(node)
    assert rule is not None
    assert rule.bias is not None
    values = (np.zeros(1) if bias is None else bias.reshape(-1)) + shift
    if len(node.inputs) <= rule.bias:
        node.resize_inputs(rule.bias + 1)
    node.replace_input_with(rule.bias, constants.added(name, values.astype(np.float32)))


def guarded(
    values: Float32, qparams: QParams, users: Sequence[ir.Node], input_qparams: InputQParams
) -> tuple[QParams, list[str]]:
    """Widen the scale of each channel whose int32 accumulator or bias could overflow, eq. 8."""
    notes = []
    for _ in range(64):
        worst = np.zeros(qparams.scale.shape)
        for node in users:
            x = input_qparams(node)
            if x is not None:
                worst = np.maximum(worst, _largest_accumulator(values, qparams, node, x))
        over = worst > INT32_MAX
        if not over.any():
            break
        factor = np.where(over, np.maximum(worst / INT32_MAX, 1.0) * 1.01, 1.0)
        notes.append(
            f"{node_label(users[0])}: widened the weight scale of {int(over.sum())} channels "
            "so that the int32 bias fits"
        )
        qparams = replace(qparams, scale=(qparams.scale * factor).astype(np.float32))
    return qparams, notes[-1:]


def _largest_accumulator(
    values: Float32, qparams: QParams, node: ir.Node, x: QParams
) -> npt.NDArray[np.float64]:
    """Return max |acc| per channel over all inputs, of shape () or (C,)."""
    total = np.zeros(qparams.scale.shape)
    if x.dtype in ("int8", "uint8"):  # 16-bit activations accumulate in int64
        low, high = (limit - x.zero_point for limit in x.limits)
        w = quantize(values, qparams).astype(np.float64)
        w -= broadcast(qparams, w.ndim)[1]
        others = tuple(i for i in range(w.ndim) if i != qparams.axis)
        top = np.maximum(w * low, w * high).sum(axis=others)
        bottom = np.minimum(w * low, w * high).sum(axis=others)
        total = np.maximum(np.abs(top), np.abs(bottom))
    bias = _bias(node)
    if bias is not None:
        scale = output_scale(node, qparams.scale, qparams.axis).astype(np.float64)
        steps = np.abs(bias.astype(np.float64)) / (scale * float(x.scale))
        if steps.shape != total.shape:  # channels of groups share one scale
            steps = steps.reshape(-1, total.size).max(axis=0) if total.ndim else steps.max()
        total = total + steps
    return np.asarray(total)


def _bias(node: ir.Node) -> Float32 | None:
    rule = rule_of(node)
    if rule is None or rule.bias is None or len(node.inputs) <= rule.bias:
        return None
    return array(node.inputs[rule.bias])


def _quantize_bias(node: ir.Node, x: QParams, weight: QParams, constants: Constants) -> None:
    """Quantize a bias to int32 at x_scale * w_scale with zero point 0, eq. 4."""
    bias, rule = _bias(node), rule_of(node)
    if bias is None or rule is None or rule.bias is None:
        return
    value = node.inputs[rule.bias]
    assert value is not None
    scale = np.asarray(output_scale(node, weight.scale, weight.axis) * x.scale, np.float32)
    bias = np.broadcast_to(bias.reshape(-1), _channels(node, bias))
    steps = np.rint(bias.astype(np.float64) / scale.astype(np.float64))
    integers = np.clip(steps, -INT32_MAX, INT32_MAX).astype(np.int32)
    zero = np.zeros(scale.shape, np.int32)
    qparams = QParams(scale, zero, "int32", axis=0 if scale.ndim else None)
    node.replace_input_with(rule.bias, constants.dequantize(value, integers, qparams))


def _channels(node: ir.Node, bias: Float32) -> tuple[int, ...]:
    """Return the shape (C_out,) of a bias; a Gemm's may be a scalar or have leading ones."""
    shape = node.outputs[0].shape
    if node.op_type == "Gemm" and shape is not None and isinstance(shape[-1], int):
        return (shape[-1],)
    return (bias.size,)
