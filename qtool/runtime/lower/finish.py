"""The end of lowering: results where the caller gets them, and no ops that nobody needs."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from qtool.runtime.lower.layout import copied
from qtool.runtime.lower.state import Lowering
from qtool.runtime.program import Buffer, Op, Tensor


def outputs(lowering: Lowering, values: Sequence[ir.Value]) -> list[Tensor]:
    """Return the outputs of the model, written by the ops that compute them where possible."""
    made = []
    for position, value in enumerate(values):
        lowering.node = value.name or ""
        tensor = lowering.plain(value)
        if not _takes(lowering.ops, tensor):
            tensor = copied(lowering, tensor)
        tensor.buffer.kind = "output"
        tensor.buffer.offset = position
        made.append(tensor)
    return made


def _takes(ops: Sequence[Op], tensor: Tensor) -> bool:
    """Return whether a tensor's buffer can be the caller's: all of it, and never read."""
    buffer = tensor.buffer
    if buffer.kind != "arena" or tensor.start or tensor.spanned_bytes != buffer.n_bytes:
        return False
    return not any(t is not None and t.buffer is buffer for op in ops for t in op.inputs)


def needed(ops: Sequence[Op]) -> list[Op]:
    """Return the ops that an output depends on."""
    wanted: set[Buffer] = set()
    kept = []
    for op in reversed(ops):
        if any(t.buffer.kind == "output" or t.buffer in wanted for t in op.outputs):
            wanted.update(t.buffer for t in op.inputs if t is not None)
            kept.append(op)
    return kept[::-1]
