"""SmoothQuant: wide channels of activations move into the weights that read them.

    y = (x / t) (t W)        t_j = max |x_j|^a / max |W_j|^(1 - a)

Xiao et al., arXiv 2211.10438. 1 / t goes into what makes x: the scale and bias of a normalization,
or a linear layer. The strength a is that of the least predicted error at the outputs of the layers
that read x, and 1 (none) is among the candidates. Shape legend: x (..., K), W (K, M).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from qtool.model import Model, Names, add_initializer, array, attribute
from qtool.quant.smoothing_strength import STEPS

log = logging.getLogger("qtool")

Float64 = npt.NDArray[np.float64]

KEY = "qtool.smoothed"  # in a model's metadata: the k of each tensor's channels, as JSON
LINEAR = ("MatMul", "Gemm")


@dataclass(frozen=True)
class Site:
    """A tensor between layers that share factors.

    readers are the linear layers that read it; folds the constants of what makes it that 1 / t
    goes into, as (node, input index, axis).
    """

    value: ir.Value
    readers: list[ir.Node]
    folds: list[tuple[ir.Node, int, int]]

    @property
    def name(self) -> str:
        """The name of the tensor."""
        return self.value.name or ""

    @property
    def in_weights(self) -> bool:
        """Whether 1 / t goes into the weights of a linear layer."""
        values = [array(node.inputs[index]) for node, index, _ in self.folds]
        return any(v is not None and v.ndim > 1 for v in values)

    def weights(self) -> list[Float64]:
        """Return what the readers multiply with, each (K, M)."""
        return [_weight(node) for node in self.readers]


def sites(model: Model) -> list[Site]:
    """Return where channels can be smoothed: all that read the tensor are linear layers."""
    found = []
    for node in model.graph:
        for value in node.outputs[:1]:
            readers = [user for user, _ in value.uses()]
            depth = _depth(readers)
            if (
                depth is None
                or value.is_graph_output()
                or not all(_reads(r, value) for r in readers)
            ):
                continue
            folds = _folds(node, depth)
            if folds:
                found.append(Site(value, readers, folds))
    return found


def smoothed(model: Model, chosen: Mapping[str, Float64]) -> Model:
    """Return a copy with the factors t of the sites of these names; it computes the same."""
    result = model.copy()
    names = Names(result.graph)
    for site in sites(result):
        t = chosen.get(site.name)
        if t is None:
            continue
        for node, index, axis in site.folds:
            _multiply(result.graph, names, node, index, axis, 1 / t)
        for node in site.readers:
            axis = 1 if node.op_type == "Gemm" and attribute(node, "transB", 0) else 0
            _multiply(result.graph, names, node, 1, axis, t)
    steps = {n: np.rint(np.log2(t) * STEPS).astype(int).tolist() for n, t in chosen.items()}
    result.ir.metadata_props[KEY] = json.dumps(steps, separators=(",", ":"))
    return result


def aligned(reference: Model, model: Model) -> Model:
    """Return the reference smoothed as the model is, so that tensors of one name are the same.

    A model without a record gives the reference itself, and so does, with a warning, a reference
    of other tensors.
    """
    text = model.ir.metadata_props.get(KEY)
    if text is None or KEY in reference.ir.metadata_props:
        return reference
    chosen = _recorded(text, {s.name: len(s.weights()[0]) for s in sites(reference)})
    if chosen is not None:
        return smoothed(reference, chosen)
    log.warning(
        "the model is smoothed, and the reference has not the tensors to do the same to: what is "
        "said of single layers does not hold; give the model that was quantized"
    )
    return reference


def _recorded(text: str, depths: Mapping[str, int]) -> dict[str, Float64] | None:
    """Return the factors that a record says; None if it is damaged or of other tensors."""
    try:
        steps = {name: np.array(k, np.int16) for name, k in json.loads(text).items()}
    except (ValueError, TypeError, AttributeError, OverflowError):
        return None
    fits = all(k.shape == (depths.get(n),) and np.abs(k).max() < 1 << 10 for n, k in steps.items())
    return {name: np.exp2(k / STEPS) for name, k in steps.items()} if fits else None


def _multiply(
    graph: ir.Graph, names: Names, node: ir.Node, index: int, axis: int, factor: Float64
) -> None:
    """Give a node a constant times factor along an axis, counted from the end where negative."""
    old = node.inputs[index]
    values = array(old)
    assert old is not None
    assert values is not None
    shape = [1] * max(values.ndim, 1)
    shape[axis] = -1
    made = (values.astype(np.float64) * factor.reshape(shape)).astype(values.dtype)
    name = names(f"{old.name}_smooth")
    node.replace_input_with(index, add_initializer(graph, name, made))
    if not old.uses() and old.is_initializer() and not old.is_graph_input():
        graph.initializers.pop(old.name or "", None)


def _weight(node: ir.Node) -> Float64:
    values = array(node.inputs[1])
    assert values is not None
    turned = node.op_type == "Gemm" and attribute(node, "transB", 0)
    return (values.T if turned else values).astype(np.float64)


def _reads(node: ir.Node, value: ir.Value) -> bool:
    return node.inputs[0] is value and node.inputs.count(value) == 1


def _depth(readers: list[ir.Node]) -> int | None:
    """Return K where all readers are linear layers with constant weights of that depth."""
    depths = set()
    for node in readers:
        values = array(node.inputs[1]) if node.op_type in LINEAR else None
        if values is None or values.ndim != 2 or values.dtype.kind != "f":
            return None
        if node.op_type == "Gemm" and attribute(node, "transA", 0):
            return None
        depths.add(len(_weight(node)))
    return depths.pop() if len(depths) == 1 else None


def _folds(node: ir.Node, depth: int) -> list[tuple[ir.Node, int, int]]:
    """Return the constants of what makes a tensor that scale its last axis; none if there are not.

    A LayerNormalization over the last axis, a normalization written out (Mul, Add), or a linear
    layer, its bias apart or not, with a Relu behind it or not.
    """
    if node.op_type == "Relu" or _is_last(node, "LayerNormalization"):
        if node.op_type == "Relu":
            producer = _alone(node.inputs[0])
            return [] if producer is None else _linear(producer, depth)
        indices = [i for i in (1, 2) if i < len(node.inputs) and node.inputs[i] is not None]
        return _constants(node, indices, depth)
    return _linear(node, depth)


def _is_last(node: ir.Node, op_type: str) -> bool:
    return node.op_type == op_type and attribute(node, "axis", -1) == -1


def _linear(node: ir.Node, depth: int) -> list[tuple[ir.Node, int, int]]:
    if node.op_type == "Gemm":
        axis = 0 if attribute(node, "transB", 0) else 1
        bias = [i for i in (2,) if len(node.inputs) > 2 and node.inputs[2] is not None]
        return [*_constants(node, [1], depth, axis), *_constants(node, bias, depth)]
    if node.op_type == "MatMul":
        return _constants(node, [1], depth, -1)
    if node.op_type == "Mul":
        return _constants(node, [_constant_index(node)], depth)
    if node.op_type != "Add":
        return []
    mine = _constants(node, [_constant_index(node)], depth)
    before = _alone(node.inputs[1 - _constant_index(node)])
    inner = _linear(before, depth) if before is not None and before.op_type != "Add" else []
    return [*mine, *inner] if mine and inner else []


def _constants(
    node: ir.Node, indices: list[int], depth: int, axis: int = -1
) -> list[tuple[ir.Node, int, int]]:
    """Return the inputs as folds, or nothing where one is no constant of that many channels."""
    values = [array(node.inputs[i]) for i in indices]
    fit = all(v is not None and v.ndim > 0 and v.shape[axis] == depth for v in values)
    return [(node, i, axis) for i in indices] if fit else []


def _constant_index(node: ir.Node) -> int:
    return 1 if array(node.inputs[1]) is not None else 0


def _alone(value: ir.Value | None) -> ir.Node | None:
    """Return what makes a value that nothing else reads."""
    if value is None or len(value.uses()) != 1 or value.is_graph_output():
        return None
    return value.producer()
