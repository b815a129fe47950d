"""How long a model takes to load and how much memory it takes to run, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from qtool.errors import QtoolError
from qtool.runtime.memory import peak_bytes, resident_bytes

RUNS = 3
LOADS = 3


def open_session(runtime: str, path: str, threads: int) -> Any:
    """Return a session of an .onnx file with the interface of onnxruntime.InferenceSession."""
    if runtime == "native":
        from qtool.runtime.native import Session

        return Session(path, threads)
    from qtool.runtime.ort import open_file

    return open_file(path, threads)


def footprint(runtime: str, path: str, feeds: str, threads: int) -> dict[str, float]:
    """Return load_ms, the fastest of some, and peak_mb, what loading and running added.

    feeds is an .npz of the inputs. The process is a new one, as memory is never all given back.

    Raises:
        QtoolError: the process failed; says how.
    """
    command = [sys.executable, "-m", "qtool.runtime.footprint", runtime, path, feeds, str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it was killed"])[-1]
        raise QtoolError(f"could not measure the memory of {runtime}: {last}")
    found: dict[str, float] = json.loads(done.stdout)
    return found


def _measure(runtime: str, path: str, feeds: str, threads: int) -> dict[str, float]:
    with np.load(feeds) as stored:
        fed = dict(stored)
    _imported(runtime)
    return measure(lambda: open_session(runtime, path, threads), lambda s: s.run(None, fed))


def measure(make: Callable[[], Any], run: Callable[[Any], object]) -> dict[str, float]:
    """Return what footprint() does of sessions in this process, where nothing else has run."""
    before = resident_bytes()
    ms, session = _load(make)
    for _ in range(RUNS):
        run(session)
    added = max(0, peak_bytes() - before)
    del session
    ms = min([ms, *(_load(make)[0] for _ in range(LOADS))])
    return {"load_ms": ms, "peak_mb": added / 1e6}


def _imported(runtime: str) -> None:
    """Import what loading imports: that is no part of a model's time or memory."""
    if runtime == "native":
        import qtool
        import qtool.runtime.native

        assert qtool.load  # which imports what it needs
    else:
        import qtool.runtime.ort  # noqa: F401


def _load(make: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    session = make()
    return (time.perf_counter() - start) * 1e3, session


if __name__ == "__main__":
    runtime_, path_, feeds_, threads_ = sys.argv[1:]
    sys.stdout.write(json.dumps(_measure(runtime_, path_, feeds_, int(threads_))))
