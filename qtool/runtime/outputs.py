"""Any tensor of a graph as a model's output."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from qtool.errors import ModelError


def with_outputs(loaded: ir.Model, names: Sequence[str]) -> ir.Model:
    """Return a copy whose outputs are the tensors of these names.

    Raises:
        ModelError: the main graph has no such tensor.
    """
    copy = loaded.clone()
    values = {v.name: v for v in copy.graph.inputs} | dict(copy.graph.initializers)
    values |= {v.name: v for node in copy.graph for v in node.outputs}
    missing = [name for name in names if name not in values]
    if missing:
        raise ModelError(f"the model has no tensor named {missing[0]!r}")
    copy.graph.outputs[:] = [values[name] for name in names]
    return copy


def prefix(loaded: ir.Model, names: Sequence[str]) -> ir.Model:
    """Return a copy that computes the tensors of these names, and nothing that they do not need.

    Raises:
        ModelError: the main graph has no such tensor.
    """
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    part = with_outputs(loaded, names)
    RemoveUnusedNodesPass()(part)
    return part
