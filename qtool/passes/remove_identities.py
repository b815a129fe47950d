"""Nodes that return their input unchanged, and pairs of layout nodes that one can replace."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from qtool.model import Dim, array, attribute, constant, dim
from qtool.passes.rewriting import Editor, rank, rewrites, static_shape
from qtool.passes.tensors import dims

SMALL = 1 << 12  # elements; no list of axes, pads or dims is longer


@rewrites()
def remove_identities(node: ir.Node, editor: Editor) -> bool:
    """Remove each node that does nothing: Identity, a Reshape to the same shape, and so on."""
    does_nothing = NOOPS.get(node.op_type)
    source = node.inputs[0] if node.inputs else None
    if does_nothing is None or source is None or any(o.uses() for o in node.outputs[1:]):
        return False
    if any(o.is_graph_output() for o in node.outputs[1:]) or not does_nothing(node):
        return False
    return editor.bypass(node, source)


def ints(value: ir.Value | None) -> list[int] | None:
    """Return the elements of a small constant of integers, or None."""
    tensor = constant(value)
    if tensor is None or not tensor.dtype.is_integer() or tensor.size > SMALL:
        return None
    return [int(x) for x in np.ravel(tensor.numpy())]


def shape_dims(value: ir.Value | None) -> list[Dim] | None:
    """Return the dims of a value, or None when its rank is unknown."""
    return None if value is None or value.shape is None else [dim(d) for d in value.shape]


def _same_reshape(node: ir.Node) -> bool:
    """Every dim but at most one is the input's; the number of elements decides that one."""
    old, new = shape_dims(node.inputs[0]), ints(node.inputs[1])
    if old is None or new is None or len(old) != len(new):
        return False
    keep_zero = bool(attribute(node, "allowzero", 0))
    same = [n == o or (n == 0 and not keep_zero) for o, n in zip(old, new, strict=True)]
    rest = [n for n, equal in zip(new, same, strict=True) if not equal]
    return not rest or (rest == [-1] and 0 not in old)


def _same_transpose(node: ir.Node) -> bool:
    perm, n = attribute(node, "perm"), rank(node.inputs[0])
    if perm is None:
        return n is not None and n < 2
    return list(perm) == sorted(perm)


def _same_cast(node: ir.Node) -> bool:
    source = node.inputs[0]
    return source is not None and source.dtype == ir.DataType(attribute(node, "to"))


def _same_slice(node: ir.Node) -> bool:
    """Each sliced axis starts at 0 in steps of 1 and ends at the axis' end or beyond."""
    given = [ints(value) for value in node.inputs[1:]]
    if any(value is None for value in given) or len(given) < 2:
        return False
    starts, ends = given[0] or [], given[1] or []
    axes = given[2] if len(given) > 2 else list(range(len(starts)))
    steps = given[3] if len(given) > 3 else [1] * len(starts)
    shape = shape_dims(node.inputs[0])
    if any(starts) or any(step != 1 for step in steps or []) or len(axes or []) != len(ends):
        return False
    for axis, end in zip(axes or [], ends, strict=True):
        known = shape is not None and -len(shape) <= axis < len(shape)
        length = shape[axis] if shape is not None and known else None
        if end < 2**31 - 1 and not (isinstance(length, int) and end >= length):
            return False
    return True


def _same_pad(node: ir.Node) -> bool:
    pads = ints(node.inputs[1])
    return pads is not None and not any(pads)


def _same_flatten(node: ir.Node) -> bool:
    return rank(node.inputs[0]) == 2 and attribute(node, "axis", 1) in (1, -1)


def _single(node: ir.Node) -> bool:
    return len(node.inputs) == 1


def _same_split(node: ir.Node) -> bool:
    return len(node.outputs) == 1


def _same_expand(node: ir.Node) -> bool:
    target, shape = ints(node.inputs[1]), static_shape(node.inputs[0])
    if target is None:
        return False
    n = rank(node.inputs[0])
    if all(d == 1 for d in target):
        return n is not None and len(target) <= n
    return shape is not None and len(target) <= len(shape) and all(
        d in (1, s) for d, s in zip(reversed(target), reversed(shape), strict=False)
    )  # fmt: skip


def _same_tile(node: ir.Node) -> bool:
    repeats = ints(node.inputs[1])
    return repeats is not None and all(r == 1 for r in repeats)


def _neutral(number: float) -> Callable[[ir.Node], bool]:
    """Tell whether the second input is this number everywhere and widens nothing."""

    def does_nothing(node: ir.Node) -> bool:
        tensor = constant(node.inputs[1])
        shape, n = shape_dims(node.inputs[0]), rank(node.inputs[0])
        if tensor is None or n is None or shape is None or tensor.size > SMALL:
            return False
        target = dims(tensor)
        if len(target) > n or any(
            d not in (1, s) for d, s in zip(reversed(target), reversed(shape), strict=False)
        ):
            return False
        values = array(node.inputs[1])
        return values is not None and values.size > 0 and bool(np.all(values == number))

    return does_nothing


NOOPS: dict[str, Callable[[ir.Node], bool]] = {
    "Identity": lambda node: True,
    "Reshape": _same_reshape,
    "Transpose": _same_transpose,
    "Cast": _same_cast,
    "Slice": _same_slice,
    "Pad": _same_pad,
    "Flatten": _same_flatten,
    "Concat": _single,
    "Sum": _single,
    "Mean": _single,
    "Max": _single,
    "Min": _single,
    "Split": _same_split,
    "Expand": _same_expand,
    "Tile": _same_tile,
    "Mul": _neutral(1),
    "Div": _neutral(1),
    "Add": _neutral(0),
    "Sub": _neutral(0),
    "Pow": _neutral(1),
}
