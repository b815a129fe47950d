"""Shape arithmetic: what can be known of it before the model runs.

Shape legend: an element of a shape is an int, or a str (which dim it is, by the name that an input
declares, or else by tensor and axis), or None (unknown).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from qtool.model import Dim, Model, all_nodes, attribute, constant
from qtool.passes.constants import lift
from qtool.passes.remove_identities import ints, shape_dims
from qtool.passes.rewriting import Editor, editable

Elements = npt.NDArray[np.object_]  # of Dim

LARGEST = 1 << 10  # elements; what is larger is no shape
VAGUE = {"", "?", "-1", "none", "dynamic", "unk", "unknown"}  # names that say nothing


def fold_shapes(model: Model) -> Model:
    """Replace shape arithmetic by constants where the dims that it reads are known.

    Shape -> Gather, Slice, Concat, Mul, ... is followed element by element, so that a result that
    reads only fixed dims of a tensor becomes a constant, whatever the other dims are. The target
    of a Reshape that depends on them becomes a constant too when 0 (the same dim of the input) or
    one -1 can say it.
    """
    editor = Editor(editable(model))
    known: dict[ir.Value, Elements] = {}
    count = 0
    for node in list(all_nodes(editor.model)):
        rule = RULES.get(node.op_type) if node.domain == "" else None
        if node.op_type == "Reshape" and node.domain == "":
            count += _fold_target(node, known, editor)
        if rule is None or not node.inputs:
            continue
        elements = rule(node, [_elements(value, known) for value in node.inputs])
        if elements is None or elements.size > LARGEST:
            continue
        output = node.outputs[0]
        known[output] = elements
        if all(isinstance(e, int) for e in elements.flat) and not output.is_graph_output():
            dtype = np.int32 if output.dtype == ir.DataType.INT32 else np.int64
            tensor = ir.Tensor(elements.astype(dtype))
            lift(node, tensor)
            count += 1
    return editor.finish() if count else model


def _elements(value: ir.Value | None, known: dict[ir.Value, Elements]) -> Elements | None:
    """Return the elements of a small integer tensor, as far as they are known."""
    if value is None or value in known:
        return None if value is None else known[value]
    tensor = constant(value)
    if tensor is None or tensor.dtype not in (ir.DataType.INT64, ir.DataType.INT32):
        return None
    if tensor.size > LARGEST:
        return None
    return _objects(tensor.numpy().tolist(), tuple(tensor.numpy().shape))


def _objects(elements: Any, shape: tuple[int, ...]) -> Elements:
    made = np.empty(shape, dtype=object)
    made[...] = elements
    return made


def _shape(node: ir.Node, inputs: Sequence[Elements | None]) -> Elements | None:
    dims = _named(node.inputs[0])
    if dims is None:
        return None
    chosen = dims[attribute(node, "start", 0) : attribute(node, "end", len(dims))]
    return _objects(chosen, (len(chosen),))


def _named(value: ir.Value | None) -> list[int | str] | None:
    """Return the dims of a value, where none is known those of this very tensor and axis."""
    dims = shape_dims(value)
    if value is None or dims is None:
        return None
    return [
        d if isinstance(d, int) or (d and d.strip().lower() not in VAGUE) else f"{value.name} {i}"
        for i, d in enumerate(dims)
    ]


def _gather(node: ir.Node, inputs: Sequence[Elements | None]) -> Elements | None:
    data, indices = inputs
    where = ints(node.inputs[1])
    axis = attribute(node, "axis", 0)
    if data is None or indices is None or where is None or not -data.ndim <= axis < data.ndim:
        return None
    if any(not -data.shape[axis] <= i < data.shape[axis] for i in where):
        return None
    return np.asarray(np.take(data, np.array(where, int).reshape(indices.shape), axis), object)


def _slice(node: ir.Node, inputs: Sequence[Elements | None]) -> Elements | None:
    data, given = inputs[0], [ints(value) for value in node.inputs[1:]]
    if data is None or data.ndim != 1 or any(value is None for value in given):
        return None
    lists = [value or [] for value in given]
    if [len(value) for value in lists] != [1] * len(lists):
        return None
    start, end = lists[0][0], lists[1][0]
    step = lists[3][0] if len(lists) > 3 else 1
    if step <= 0:
        return None
    return data[start:end:step]


def _concat(node: ir.Node, inputs: Sequence[Elements | None]) -> Elements | None:
    parts = [part for part in inputs if part is not None]
    if len(parts) < len(inputs) or any(part.ndim != 1 for part in parts):
        return None
    return np.concatenate(parts)


def _squeeze(node: ir.Node, inputs: Sequence[Elements | None]) -> Elements | None:
    data = inputs[0]
    return data.reshape(()) if data is not None and data.size == 1 else None


def _unsqueeze(node: ir.Node, inputs: Sequence[Elements | None]) -> Elements | None:
    data = inputs[0]
    return data.reshape((1,)) if data is not None and data.ndim == 0 else None


def _cast(node: ir.Node, inputs: Sequence[Elements | None]) -> Elements | None:
    integers = (ir.DataType.INT64, ir.DataType.INT32)
    return inputs[0] if ir.DataType(attribute(node, "to")) in integers else None


def _same(node: ir.Node, inputs: Sequence[Elements | None]) -> Elements | None:
    return inputs[0]


def _arithmetic(
    operation: Callable[[int, int], int | None], neutral: int | None = None, *, both: bool = True
) -> Callable[[ir.Node, Sequence[Elements | None]], Elements | None]:
    """Follow an operation on ints; a symbolic dim stays what it is beside the neutral number."""

    def element(a: Dim, b: Dim) -> Dim:
        if isinstance(a, int) and isinstance(b, int):
            return operation(a, b)
        if b == neutral:
            return a
        return b if both and a == neutral else None

    def rule(node: ir.Node, inputs: Sequence[Elements | None]) -> Elements | None:
        a, b = inputs
        if a is None or b is None or not (a.shape == b.shape or 1 in (a.size, b.size)):
            return None
        return np.asarray(np.frompyfunc(element, 2, 1)(a, b), dtype=object)

    return rule


def _divide(a: int, b: int) -> int | None:
    """Integers are divided as C does it: towards zero; only the sure case is followed."""
    return a if b == 1 else a // b if a >= 0 and b > 0 else None


RULES: dict[str, Callable[[ir.Node, Sequence[Elements | None]], Elements | None]] = {
    "Shape": _shape,
    "Gather": _gather,
    "Slice": _slice,
    "Concat": _concat,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Cast": _cast,
    "Identity": _same,
    "Add": _arithmetic(lambda a, b: a + b, 0),
    "Sub": _arithmetic(lambda a, b: a - b, 0, both=False),
    "Mul": _arithmetic(lambda a, b: a * b, 1),
    "Div": _arithmetic(_divide, 1, both=False),
}


def _fold_target(node: ir.Node, known: dict[ir.Value, Elements], editor: Editor) -> bool:
    """Give a Reshape a constant target when its elements are known well enough."""
    target = None if constant(node.inputs[1]) is not None else _elements(node.inputs[1], known)
    dims = _named(node.inputs[0]) or []
    if target is None or attribute(node, "allowzero", 0) or target.ndim != 1 or 0 in target:
        return False
    said: list[int] = []
    for i, element in enumerate(target):
        copied = isinstance(element, str) and i < len(dims) and dims[i] == element
        said.append(element if isinstance(element, int) else 0 if copied else -1)
    if said.count(-1) > 1:
        return False
    wanted = f"{node.outputs[0].name}_shape"
    editor.set_constant(node, 1, wanted, np.array(said, np.int64))
    return True
