"""compare: what changed from one model to another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from qtool.model import Dim, Json, Model, dtype_name
from qtool.shapes import tensor_bytes, tensor_shape
from qtool.stages.inspect import Inspection, constants, inspect, plain

CHUNK = 1 << 20  # elements compared at a time


@dataclass(frozen=True)
class Change:
    """One fact that differs; None where one of the models does not have it."""

    what: str
    before: Json
    after: Json
    difference: Json = None  # of numbers: after - before; of values: the largest difference

    def to_json(self) -> dict[str, Json]:
        """Return the change as a JSON object."""
        return dict(vars(self))


@dataclass(frozen=True)
class Comparison:
    """What changed: in the model's totals, in its ops, and in its constants by name."""

    totals: tuple[Change, ...]
    ops: tuple[Change, ...]
    constants: tuple[Change, ...]

    @property
    def same(self) -> bool:
        """Whether nothing differs."""
        return not (self.totals or self.ops or self.constants)

    def to_json(self) -> dict[str, Json]:
        """Return the comparison as a JSON object."""
        return {
            "same": self.same,
            "totals": [change.to_json() for change in self.totals],
            "ops": [change.to_json() for change in self.ops],
            "constants": [change.to_json() for change in self.constants],
        }


def compare(before: Model, after: Model, *, dims: Mapping[str, int] | None = None) -> Comparison:
    """Return what changed from before to after; constants are matched by name."""
    old, new = inspect(before, dims=dims), inspect(after, dims=dims)
    return Comparison(
        _changes(_totals(old), _totals(new)),
        _changes(dict(old.ops), dict(new.ops), absent=0),
        _constants(before, after),
    )


def _totals(found: Inspection) -> dict[str, Json]:
    totals: dict[str, Json] = {
        "producer": found.producer,
        "ir_version": found.ir_version,
        **{f"opset {domain}": version for domain, version in found.opsets.items()},
    }
    for kind, ports in (("input", found.inputs), ("output", found.outputs)):
        totals |= {f"{kind} {p.name}": _type(p.dtype, p.shape) for p in ports}
    return totals | {
        "nodes": sum(found.ops.values()),
        "macs": found.macs,
        "parameters": found.n_parameters,
        "weight_bytes": found.weight_bytes,
        "integer_macs": found.coverage.by_macs.integer,
        "preprocess": found.preprocess,
        "history": [step["command"] for step in found.history],
    }


def _changes(
    before: Mapping[str, Json], after: Mapping[str, Json], absent: Json = None
) -> tuple[Change, ...]:
    changes = []
    for what in dict.fromkeys([*before, *after]):
        a, b = before.get(what, absent), after.get(what, absent)
        if a != b:
            numbers = isinstance(a, int) and isinstance(b, int)
            changes.append(Change(what, a, b, b - a if numbers else None))
    return tuple(changes)


def _constants(before: Model, after: Model) -> tuple[Change, ...]:
    old = {name: tensor for name, tensor, _ in constants(before)}
    new = {name: tensor for name, tensor, _ in constants(after)}
    changes = []
    for name in dict.fromkeys([*old, *new]):
        a, b = old.get(name), new.get(name)
        if a is None or b is None or _header(a) != _header(b):
            changes.append(Change(name, _header(a), _header(b)))
        elif (difference := _difference(a, b)) != 0:
            changes.append(Change(name, _header(a), _header(b), difference))
    return tuple(changes)


def _header(tensor: ir.TensorProtocol | None) -> str | None:
    return None if tensor is None else _type(dtype_name(tensor.dtype), tensor_shape(tensor))


def _type(dtype: str | None, shape: tuple[Dim, ...] | None) -> str:
    dims = ("?",) if shape is None else ("?" if d is None else str(d) for d in shape)
    return f"{dtype or 'unknown'}[{','.join(dims)}]"


def _difference(a: ir.TensorProtocol, b: ir.TensorProtocol) -> float | str:
    """Return the largest difference of two tensors of one shape; 0.0 when they are equal."""
    if a is b or tensor_bytes(a) == 0:
        return 0.0
    old, new = plain(a.numpy()), plain(b.numpy())
    if old is None or new is None:
        return 0.0 if np.array_equal(a.numpy(), b.numpy()) else "different"
    x, y = old.reshape(-1), new.reshape(-1)
    worst = 0.0
    for start in range(0, x.size, CHUNK):
        part, other = x[start : start + CHUNK], y[start : start + CHUNK]
        if np.array_equal(part, other, equal_nan=part.dtype.kind == "f"):
            continue
        with np.errstate(invalid="ignore", over="ignore"):
            apart = np.abs(part.astype(np.float64) - other.astype(np.float64))
            apart[(part == other) | ((part != part) & (other != other))] = 0  # also inf, NaN
        if not np.isfinite(apart).all():
            return "not finite"
        worst = max(worst, float(np.max(apart)))
    return worst
