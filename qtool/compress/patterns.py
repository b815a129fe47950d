"""What is pruned together: single weights, n of m, blocks that a kernel can skip, channels.

Shape legend: as in qtool.compress.hessian; taps are the positions of a kernel, so K = C_in * taps.
A block of four columns is four input channels of one tap: what the packed weights of the native
runtime keep together.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from qtool.errors import UsageError

Array = npt.NDArray[Any]
NAMES = ("unstructured", "N:M (such as 2:4)", "block16x4", "block1x4", "channel")
MAX_GROUP = 1024


@dataclass(frozen=True)
class Pattern:
    """A pattern: blocks of rows x columns, or n_keep of each group of columns that stay."""

    name: str
    block: tuple[int, int] = (1, 1)
    n_keep: int = 0
    group: int = 0
    taps: int = 1

    @property
    def single(self) -> bool:
        """Whether weights go one by one."""
        return self.block == (1, 1) and not self.group

    @property
    def sparsity(self) -> float | None:
        """The share of zeros that the pattern fixes, or None."""
        return 1 - self.n_keep / self.group if self.group else None

    def order(self, depth: int) -> npt.NDArray[np.intp]:
        """Return the columns with the input channels of a tap side by side."""
        return np.arange(depth).reshape(-1, self.taps).T.ravel()

    def sweep(self) -> dict[str, int]:
        """Return the pattern as options of _native.prune_sweep."""
        if self.group:
            return {"n_keep": self.n_keep, "group": self.group}
        return {"block_rows": self.block[0], "block_columns": self.block[1]}


def parse(name: str) -> Pattern:
    """Return the pattern of this name.

    Raises:
        UsageError: there is none.
    """
    if name in ("unstructured", "channel"):
        return Pattern(name)
    if name in ("block16x4", "block1x4"):
        return Pattern(name, block=(16 if name == "block16x4" else 1, 4))
    found = re.fullmatch(r"(\d{1,4}):(\d{1,4})", name)
    if found is None:
        raise UsageError(f"no pattern named {name!r}; known: {', '.join(NAMES)}")
    n_keep, group = int(found[1]), int(found[2])
    if not 0 < n_keep < group <= MAX_GROUP:
        raise UsageError(f"pattern {name}: N of every M weights stay, 0 < N < M <= {MAX_GROUP}")
    return Pattern(name, n_keep=n_keep, group=group)


def keep(scores: Array, pattern: Pattern, sparsity: float) -> Array:
    """Return 1 for the weights of rows (G, C, K) that stay, 0 for those of the least scores."""
    found = np.empty(scores.shape)
    order = np.arange(scores.shape[2]) if pattern.single else pattern.order(scores.shape[2])
    for g, mine in enumerate(scores):
        ordered = mine[:, order]
        kept = _groups(ordered, pattern) if pattern.group else _blocks(ordered, pattern, sparsity)
        found[g][:, order] = kept
    return found


def _groups(scores: Array, pattern: Pattern) -> Array:
    kept = np.ones(scores.shape)
    for start in range(0, scores.shape[1], pattern.group):
        part = scores[:, start : start + pattern.group]
        n_gone = part.shape[1] - pattern.n_keep
        if n_gone > 0:
            gone = np.argsort(part, axis=1, kind="stable")[:, :n_gone]
            np.put_along_axis(kept[:, start : start + pattern.group], gone, 0, 1)
    return kept


def _blocks(scores: Array, pattern: Pattern, sparsity: float) -> Array:
    down, across = pattern.block
    rows, columns = -(-scores.shape[0] // down), -(-scores.shape[1] // across)
    extra = ((0, rows * down - scores.shape[0]), (0, columns * across - scores.shape[1]))
    sizes = np.pad(np.ones(scores.shape), extra).reshape(rows, down, columns, across)
    sums = np.pad(scores, extra).reshape(rows, down, columns, across).sum((1, 3))
    means = (sums / sizes.sum((1, 3))).ravel()
    kept = np.ones(means.size)
    kept[np.argsort(means, kind="stable")[: round(sparsity * means.size)]] = 0
    full = kept.reshape(rows, columns).repeat(down, 0).repeat(across, 1)
    return full[: scores.shape[0], : scores.shape[1]]
