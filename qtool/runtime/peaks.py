"""What this machine can do at most, measured on the spot."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from qtool import _native

SECONDS = 0.05
CACHED_BYTES = 512 << 10  # as the activations between two ops: they stay in the second cache
MEMORY_BYTES = 64 << 20  # beyond what one core keeps in its caches


@dataclass(frozen=True)
class Peaks:
    """gmacs: 1e9 multiply-accumulates per second by what names of kernels end in, as "amx".

    gb: 1e9 bytes per second read and written, of a copy within the cache. Both of all threads.
    """

    gmacs: dict[str, float]
    gb: float


def measure(threads: int = 1) -> Peaks:
    """Return the peaks of so many threads at once."""
    with ThreadPoolExecutor(threads) as pool:
        rates = list(pool.map(lambda _: _native.peak_gmacs(SECONDS), range(threads)))
        copies = list(pool.map(lambda _: _copy_rate(), range(threads)))
    gmacs = {kernel: sum(rate[kernel] for rate in rates) for kernel in rates[0]}
    return Peaks(gmacs, sum(copies))


def memory_rate() -> float:
    """Return 1e9 bytes per second read and written, of a copy that no cache of one core holds."""
    return _copy_rate(MEMORY_BYTES)


def _copy_rate(n_bytes: int = CACHED_BYTES) -> float:
    source = np.ones(n_bytes // 2, np.uint8)
    target = np.zeros_like(source)
    best, end = float("inf"), time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        start = time.perf_counter()
        np.copyto(target, source)
        best = min(best, time.perf_counter() - start)
    return n_bytes / best / 1e9
