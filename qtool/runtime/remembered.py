"""A runner that answers what it was asked before from memory."""

from __future__ import annotations

import hashlib
import threading

import numpy as np

from qtool.runtime import Runner
from qtool.runtime.ort import Array, Feeds

MOST_BYTES = 1 << 26  # of outputs in memory


class Remembered:
    """A runner that keeps its outputs, up to MOST_BYTES, by a hash of the inputs.

    run() may be called from several threads at once.
    """

    def __init__(self, runner: Runner, most: int = MOST_BYTES) -> None:
        self._runner, self._left = runner, most
        self._known: dict[bytes, dict[str, Array]] = {}
        self._lock = threading.Lock()

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """Return the outputs by name; the arrays are shared with later calls."""
        key = _hash(feeds)
        found = self._known.get(key)
        if found is None:
            found = self._runner.run(feeds)
            size = sum(values.nbytes for values in found.values())
            with self._lock:
                if size <= self._left and key not in self._known:
                    self._left -= size
                    self._known[key] = found
        return found

    def cancel(self) -> None:
        """Make every run() that is under way, and every later one, fail as soon as it can."""
        self._runner.cancel()


def _hash(feeds: Feeds) -> bytes:
    made = hashlib.blake2b(digest_size=16)
    for name in sorted(feeds):
        values = np.ascontiguousarray(feeds[name])
        made.update(f"{name} {values.dtype} {values.shape}".encode())
        made.update(values.data if values.dtype != object else str(values.tolist()).encode())
    return made.digest()
