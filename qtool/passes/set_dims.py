"""Giving symbolic dims of the inputs a size."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from qtool.errors import UsageError
from qtool.model import Model, dim
from qtool.registry import unknown
from qtool.shapes import all_values


def set_dims(model: Model, sizes: Mapping[str, int]) -> Model:
    """Return the model with dims fixed: by name wherever it occurs, or as "input:axis".

    Raises:
        UsageError: an input has no such dim, or the size is not at least 1 or not the fixed one.
    """
    if not sizes:
        return model
    named, placed = check_dims(model, sizes)
    fixed = model.copy()
    for value in all_values(fixed):
        if value.shape is not None and value.const_value is None:
            dims = [dim(d) for d in value.shape]
            value.shape = ir.Shape([named.get(d, d) if isinstance(d, str) else d for d in dims])
    for value in fixed.graph.inputs:
        for axis, size in placed.get(value.name or "", {}).items():
            assert value.shape is not None
            value.shape = ir.Shape([size if i == axis else d for i, d in enumerate(value.shape)])
    return fixed


def check_dims(
    model: Model, sizes: Mapping[str, int]
) -> tuple[dict[str, int], dict[str, dict[int, int]]]:
    """Return {name: size} of the named dims, and {input: {axis: size}} of the placed ones."""
    known = known_dims(model)
    named: dict[str, int] = {}
    placed: dict[str, dict[int, int]] = {}
    for key, size in sizes.items():
        if size < 1:
            raise UsageError(f"--set-dim {key}={size}: a size is at least 1")
        if key not in known:
            dynamic = [name for name, d in known.items() if not isinstance(d, int)]
            raise unknown(key, dict.fromkeys(dynamic), "dim")
        now = known[key]
        if isinstance(now, int) and now != size:
            raise UsageError(f"--set-dim {key}={size}: that dim is fixed at {now} in the model")
        tensor, _, axis = key.rpartition(":")
        if isinstance(now, str):
            named[now] = size
        else:
            placed.setdefault(tensor, {})[int(axis)] = size
    return named, placed


def known_dims(model: Model) -> dict[str, int | str | None]:
    """Return what --set-dim may name: each symbolic name, and each "input:axis"."""
    known: dict[str, int | str | None] = {}
    for spec in model.inputs():
        for axis, d in enumerate(spec.shape or ()):
            known[f"{spec.name}:{axis}"] = d
            if isinstance(d, str):
                known[d] = d
    return known
