"""Two layout nodes in a row that one node, or none, can replace."""

from __future__ import annotations

import onnx_ir as ir

from qtool.model import attribute
from qtool.passes.remove_identities import ints, shape_dims
from qtool.passes.rewriting import Editor, rank, rewrites

RESHAPES = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")  # they keep the order of elements


@rewrites("Transpose", *RESHAPES)
def merge_layout(node: ir.Node, editor: Editor) -> bool:
    """Merge Transpose(Transpose(x)) and Reshape(Reshape(x)), and undo Squeeze(Unsqueeze(x))."""
    source = node.inputs[0]
    before = None if source is None else source.producer()
    if before is None or before.domain != "" or before.inputs[0] is None:
        return False
    if before.op_type == node.op_type == "Transpose":
        return _transposes(node, before)
    if before.op_type in RESHAPES and node.op_type in RESHAPES:
        return _inverse(node, before, editor) or _reshapes(node, before)
    return False


def _transposes(node: ir.Node, before: ir.Node) -> bool:
    """Transpose(Transpose(x, p), q) = Transpose(x, p[q])."""
    n = rank(before.inputs[0])
    first, second = attribute(before, "perm"), attribute(node, "perm")
    if first is None or second is None:
        if n is None:
            return False
        first, second = (list(range(n))[::-1] if p is None else p for p in (first, second))
    if sorted(first) != sorted(second) or sorted(first) != list(range(len(first))):
        return False
    node.attributes["perm"] = ir.AttrInt64s("perm", [first[i] for i in second])
    node.replace_input_with(0, before.inputs[0])
    return True


def _inverse(node: ir.Node, before: ir.Node, editor: Editor) -> bool:
    """Squeeze takes away just the axes that Unsqueeze has put in, or the other way round."""
    if {node.op_type, before.op_type} != {"Squeeze", "Unsqueeze"}:
        return False
    axes, other = (ints(n.inputs[1]) if len(n.inputs) > 1 else None for n in (node, before))
    if axes is None or other is None or before.inputs[0] is None:
        return False
    wide = rank(before.outputs[0] if before.op_type == "Unsqueeze" else before.inputs[0])
    if wide is not None:
        axes, other = ([a % wide for a in given] for given in (axes, other))
    return sorted(axes) == sorted(other) and editor.bypass(node, before.inputs[0])


def _reshapes(node: ir.Node, before: ir.Node) -> bool:
    """A Reshape whose target does not copy dims from its input sees only the elements."""
    if node.op_type == "Reshape":
        target = ints(node.inputs[1])
        if target is None or (0 in target and not _copies_same(node, before, target)):
            return False
        node.replace_input_with(0, before.inputs[0])
        return True
    return False


def _copies_same(node: ir.Node, before: ir.Node, target: list[int]) -> bool:
    """Tell whether each dim that a 0 in target copies is the same one before `before`."""
    if attribute(node, "allowzero", 0):
        return False
    old, middle = shape_dims(before.inputs[0]), shape_dims(before.outputs[0])
    if old is None or middle is None:
        return False
    return all(
        i < len(old) and i < len(middle) and old[i] is not None and old[i] == middle[i]
        for i, d in enumerate(target)
        if d == 0
    )
