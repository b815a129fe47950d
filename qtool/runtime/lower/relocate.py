"""Copies that are not needed: their two tensors can be one place in memory.

A Concat's parts are written where the whole is, and a Slice is read where the whole is, when the
ops around can step over what lies between the rows.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from qtool.runtime.program import Array, Buffer, Op, Tensor, strides

#: Ops that take the pitch of all their tensors into account.
PITCHED = frozenset(
    {
        "AddInt8", "AveragePool", "BinaryFloat", "Conv", "ConvFloat", "ConvWide", "Dequantize",
        "Fill", "MaxPool", "MulInt8", "Quantize", "Table", "UnaryFloat",
    }
)  # fmt: skip


class Uses:
    """Who reads and who writes each buffer, in running order."""

    def __init__(self, ops: Sequence[Op]) -> None:
        self.index = {op: i for i, op in enumerate(ops)}
        self.readers: dict[Buffer, list[Op]] = defaultdict(list)
        self.writers: dict[Buffer, list[Op]] = defaultdict(list)
        self.tensors: dict[Buffer, list[Tensor]] = defaultdict(list)
        for op in ops:
            for tensor in op.inputs:
                if tensor is not None and op not in self.readers[tensor.buffer]:
                    self.readers[tensor.buffer].append(op)
            for tensor in op.outputs:
                self.writers[tensor.buffer].append(op)
            for tensor in op.tensors():
                self.tensors[tensor.buffer].append(tensor)

    def written(self, tensor: Tensor | None) -> int:
        """Return the index of the last op that writes a tensor's buffer, -1 when there is none."""
        if tensor is None:
            return -1
        return max((self.index[op] for op in self.writers[tensor.buffer]), default=-1)

    def table_of(self, tensor: Tensor | None) -> tuple[Tensor | None, Array]:
        """Return the tensor that a uint8 tensor is a table of, and the table; itself at least."""
        identity = np.arange(256)
        if tensor is None or tensor.buffer.kind != "arena":
            return None, identity
        writers = self.writers[tensor.buffer]
        if len(writers) == 1 and writers[0].code == "Table":
            x, table = writers[0].inputs
            values = None if table is None else table.buffer.values
            if x is None or values is None or values.size != 256 or x.buffer.kind != "arena":
                return tensor, identity
            if x.shape == writers[0].outputs[0].shape == tensor.shape:
                return x, values.reshape(-1)
        return tensor, identity


def relocate(ops: Sequence[Op]) -> list[Op]:
    """Return the ops without the copies that moving one of their tensors saves; ops are edited."""
    kept = list(ops)
    for op in ops:
        if op.code == "Copy" and op.walk is not None and _is_slice(op):
            uses = Uses(kept)
            if _write_in_place(op, uses) or _read_in_place(op, uses):
                kept.remove(op)
    return kept


def _is_slice(op: Op) -> bool:
    """Return whether a Copy keeps the axes and their order."""
    x, y = op.inputs[0], op.outputs[0]
    assert op.walk is not None
    if x is None or len(x.shape) != len(y.shape):
        return False
    steps = [(v.x_axis, v.x_step, v.y_axis, v.y_step) for v in op.walk.loops]
    return steps == [(i, 1, i, 1) for i in range(len(x.shape))]


def _write_in_place(op: Op, uses: Uses) -> bool:
    """Make x the part of y that it is copied to."""
    x, y = op.inputs[0], op.outputs[0]
    assert x is not None
    assert op.walk is not None
    if [loop.n for loop in op.walk.loops] != list(x.shape) or not uses.writers[x.buffer]:
        return False
    if any(w is not op and uses.index[w] < uses.index[op] and w.code == "Fill"
           for w in uses.writers[y.buffer]):  # fmt: skip
        return False  # a Pad: its fill would come after what x's producer wrote
    return _move(op, uses, x, y, op.walk.y_start)


def _read_in_place(op: Op, uses: Uses) -> bool:
    """Make y the part of x that it is copied from."""
    x, y = op.inputs[0], op.outputs[0]
    assert x is not None
    assert op.walk is not None
    if [loop.n for loop in op.walk.loops] != list(y.shape) or uses.writers[y.buffer] != [op]:
        return False
    return _move(op, uses, y, x, op.walk.x_start)


def _move(op: Op, uses: Uses, part: Tensor, whole: Tensor, start: Sequence[int]) -> bool:
    """Let all tensors of part's buffer lie in whole's from these coordinates on."""
    old, new = part.buffer, whole.buffer
    if old is new or old.kind != "arena" or new.kind != "arena" or part.start:
        return False
    around = [o for o in (*uses.readers[old], *uses.writers[old]) if o is not op]
    if not all(o.code in PITCHED or (o.code == "Copy" and o.walk is not None) for o in around):
        return False
    if part.spanned_bytes != old.n_bytes or not _rows_match(part, whole):
        return False
    pitch = part.pitch
    moved = {id(t): t for t in uses.tensors[old]}.values()
    if any(t.pitch != pitch or t.start + t.columns > pitch or t.item_bytes != part.item_bytes
           for t in moved):  # fmt: skip
        return False
    first = whole.start + sum(a * b for a, b in zip(start, strides(whole), strict=True))
    for tensor in moved:
        tensor.buffer, tensor.start, tensor.pitch = new, first + tensor.start, whole.pitch
    return True


def _rows_match(part: Tensor, whole: Tensor) -> bool:
    """Return whether rows that follow each other in part do so in whole."""
    inner, outer = strides(part), strides(whole)
    return all(
        n == 1 or a * whole.pitch == b * part.pitch
        for n, a, b in zip(part.shape[:-1], inner, outer, strict=False)
    )
