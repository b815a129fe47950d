"""Every constant becomes an initializer that nobody can feed."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from qtool.model import Model
from qtool.passes.rewriting import Editor, editable, graph_of, rewrites
from qtool.passes.tensors import dims


def bind_defaults(model: Model) -> Model:
    """Make constants of the initializers that are also graph inputs, as IR 3 wanted them.

    Such an initializer is only a default, so nothing could be folded into it. Subgraph inputs
    with a default are left alone: the op that owns the subgraph feeds them by position.
    """
    initializers = model.graph.initializers
    if not any(value.name in initializers for value in model.graph.inputs):
        return model
    bound = editable(model)
    fed = [v for v in bound.graph.inputs if v.name not in bound.graph.initializers]
    bound.graph.inputs.clear()
    bound.graph.inputs.extend(fed)
    bound.ir.ir_version = max(bound.ir.ir_version, 4)  # before, every initializer is an input
    return bound


@rewrites("Constant")
def lift_constants(node: ir.Node, editor: Editor) -> bool:
    """Make an initializer of the output of each Constant node, under its name."""
    output = node.outputs[0]
    tensor = _tensor(node)
    if tensor is None or output.is_graph_output() or not output.name:
        return False
    lift(node, tensor)
    return True


def lift(node: ir.Node, *tensors: ir.TensorProtocol) -> None:
    """Replace a node by initializers with the names of its outputs, one tensor for each."""
    graph = graph_of(node)
    made = []
    for output, tensor in zip(node.outputs, tensors, strict=True):
        value = ir.Value(
            name=output.name,
            shape=ir.Shape(dims(tensor)),
            type=ir.TensorType(tensor.dtype),
            const_value=tensor,
            metadata_props=dict(output.metadata_props),
        )
        output.replace_all_uses_with(value)
        made.append(value)
    graph.remove(node, safe=True)
    for value in made:
        graph.initializers.add(value)


def _tensor(node: ir.Node) -> ir.TensorProtocol | None:
    """Return what a Constant node holds; None for a sparse or referenced one."""
    if len(node.attributes) != 1:
        return None
    attr = next(iter(node.attributes.values()))
    if attr.is_ref():
        return None
    if attr.name == "value":
        return attr.as_tensor()
    kinds: dict[str, Any] = {
        "value_float": np.float32, "value_floats": np.float32,
        "value_int": np.int64, "value_ints": np.int64,
    }  # fmt: skip
    if attr.name in kinds:
        return ir.Tensor(np.array(attr.value, dtype=kinds[attr.name]))
    if attr.name in ("value_string", "value_strings"):
        strings = [attr.value] if attr.name == "value_string" else list(attr.value)
        shape = ir.Shape([] if attr.name == "value_string" else [len(strings)])
        return ir.StringTensor([s.encode() for s in strings], shape=shape)
    return None
