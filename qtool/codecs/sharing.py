"""Frequency tables that the small streams of a file share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qtool import _native
from qtool.codecs.streams import Array, as_bytes

MIN_SYMBOLS = 32  # of a stream that is looked at
GROUPS_PER_BIT = 2  # streams are grouped by the bits of a symbol
MAX_TABLES = 12
ROUNDS = 2
LENGTH_BYTES = 2  # of a shared table, besides itself


def shared_tables(counts: Sequence[Array]) -> list[bytes]:
    """Return tables that make streams of these counts smaller than tables of their own would.

    counts are of each stream: how often each of 256 symbols comes. Groups of streams with about
    as many bits a symbol begin with the table of their sum; then each stream goes to the table
    that serves it best, or keeps its own, and tables that do not pay for themselves go.
    """
    streams = [c for c in counts if int(c.sum()) >= MIN_SYMBOLS and np.count_nonzero(c) > 1]
    own = [_own_cost(c) for c in streams]
    groups: dict[int, list[int]] = {}
    for index, (count, (cost, _)) in enumerate(zip(streams, own, strict=True)):
        bits = GROUPS_PER_BIT * 8 * cost // int(count.sum())
        groups.setdefault(bits, []).append(index)
    sums = [_sum(streams, members) for _, members in sorted(groups.items()) if len(members) > 1]
    tables: list[bytes] = []
    for _ in range(ROUNDS):
        tables = [_native.rans_table(total) for total in sums[:MAX_TABLES]]
        members = _assigned(streams, [a + b for a, b in own], tables)
        kept = [(t, m) for t, m in zip(tables, members, strict=True) if m]
        tables, sums = [t for t, _ in kept], [_sum(streams, m) for _, m in kept]
    return tables


def _own_cost(count: Array) -> tuple[int, int]:
    """Return the bytes of a stream under its own table, and of the table."""
    table = _native.rans_table(count)
    return int(_native.rans_cost(count, as_bytes(table))), len(table) + 1


def _sum(streams: Sequence[Array], members: Sequence[int]) -> Array:
    return np.asarray(np.sum([streams[m] for m in members], axis=0), np.uint64)


def _assigned(
    streams: Sequence[Array], own: Sequence[int], tables: Sequence[bytes]
) -> list[list[int]]:
    """Return for each table the streams that it serves best; none if it does not pay."""
    members: list[list[int]] = [[] for _ in tables]
    saved = [-len(table) - LENGTH_BYTES for table in tables]
    for index, count in enumerate(streams):
        costs = _native.rans_costs(count, list(tables))
        known = [(cost, k) for k, cost in enumerate(costs) if cost is not None]
        if known and min(known)[0] < own[index]:
            cost, best = min(known)
            members[best].append(index)
            saved[best] += own[index] - cost
    return [m if gain > 0 else [] for m, gain in zip(members, saved, strict=True)]
