"""Any tensor of a graph as a model's output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
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


def between(
    loaded: ir.Model, given: Mapping[str, npt.NDArray[Any]], names: Sequence[str]
) -> ir.Model:
    """Return a copy that computes tensors from those given, which become its inputs.

    Of what is given only types and the number of dims count.

    Raises:
        ModelError: the main graph has no such tensor.
    """
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    part = with_outputs(loaded, names)
    inputs = {value.name: value for value in part.graph.inputs}
    made = {v.name: v for node in part.graph for v in node.outputs if v.name in given}
    for name, value in made.items():
        kind = ir.TensorType(ir.DataType.from_numpy(np.asarray(given[name or ""]).dtype))
        shape = ir.Shape([None] * np.ndim(given[name or ""]))
        value.name = f"{name}/made"
        inputs[name] = ir.Value(name=name, type=kind, shape=shape)
        value.replace_all_uses_with(inputs[name])
    part.graph.inputs[:] = [inputs[name] for name in given if name in inputs]
    RemoveUnusedNodesPass()(part)
    return part
