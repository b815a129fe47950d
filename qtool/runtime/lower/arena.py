"""Places for the buffers of a Program: two share bytes only if they are never needed together."""

from __future__ import annotations

from collections.abc import Sequence

from qtool.runtime.program import ALIGN, Buffer, Op


def plan(ops: Sequence[Op]) -> int:
    """Set the offset of each arena buffer and return the size of the arena.

    Largest first, each at the lowest place that is free while it lives.
    """
    lives = lifetimes(ops)
    placed: list[Buffer] = []
    for buffer in sorted(lives, key=lambda b: -b.n_bytes):
        first, last = lives[buffer]
        together = [b for b in placed if lives[b][0] <= last and lives[b][1] >= first]
        buffer.offset = _lowest_gap(buffer.n_bytes, together)
        placed.append(buffer)
    return max((b.offset + _aligned(b.n_bytes) for b in placed), default=0)


def lifetimes(ops: Sequence[Op]) -> dict[Buffer, tuple[int, int]]:
    """Return the first and the last op that uses each arena buffer, in order of first use."""
    lives: dict[Buffer, tuple[int, int]] = {}
    for i, op in enumerate(ops):
        for tensor in op.tensors():
            if tensor.buffer.kind == "arena":
                lives[tensor.buffer] = (lives.get(tensor.buffer, (i, i))[0], i)
    return lives


def _lowest_gap(n_bytes: int, placed: Sequence[Buffer]) -> int:
    at = 0
    for other in sorted(placed, key=lambda b: b.offset):
        if other.offset - at >= _aligned(n_bytes):
            break
        at = max(at, other.offset + _aligned(other.n_bytes))
    return at


def _aligned(n_bytes: int) -> int:
    return -(-n_bytes // ALIGN) * ALIGN
