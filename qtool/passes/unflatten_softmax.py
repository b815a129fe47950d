"""Softmax over the last axis, without the reshaping that its old form was translated to."""

from __future__ import annotations

import onnx_ir as ir

from qtool.model import attribute
from qtool.passes.remove_identities import shape_dims
from qtool.passes.rewriting import Editor, produced, rewrites


@rewrites("Reshape")
def unflatten_softmax(node: ir.Node, editor: Editor) -> bool:
    """Replace Reshape(Softmax(Flatten(x)), Shape(x)) by Softmax(x), if it is of the last axis only.

    Raising the opset over 13 writes the first; then not even the rank of x may have been known.
    """
    softmax = produced(node.inputs[0], "Softmax", "LogSoftmax", "Hardmax")
    flat = produced(softmax.inputs[0], "Flatten") if softmax is not None else None
    x = flat.inputs[0] if flat is not None else None
    shape = shape_dims(x)
    if softmax is None or flat is None or x is None or shape is None:
        return False
    n = len(shape)
    if attribute(softmax, "axis", -1) not in (-1, 1) or attribute(flat, "axis", 1) % n != n - 1:
        return False
    target = produced(node.inputs[1], "Shape")
    whole = target is not None and target.inputs[0] is x and not target.attributes
    known = shape_dims(node.outputs[0])
    if not whole and (known != shape or None in shape):
        return False
    new = ir.node(softmax.op_type, [x], {"axis": -1}, name=softmax.name)
    editor.replace(node, new)
    return True
