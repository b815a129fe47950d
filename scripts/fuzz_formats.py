"""Damage model files in every way, and report what loading them does besides refusing.

    python scripts/fuzz_formats.py --seconds 120
    python scripts/fuzz_formats.py --cases 1000000 --seed 7 --keep findings/

Starts from the files of tests/golden. Case N of seed S is the same on every machine. A finding
is anything but a model or a QtoolError with a message of one line; a case that takes too long or
too much memory; or a model that loads but does not survive being saved and loaded again. Exit
code 1 when there are findings.
"""

from __future__ import annotations

import argparse
import logging
import random
import resource
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from fuzz_mutations import mutate_onnx, mutate_qtm

from qtool.errors import QtoolError
from qtool.formats import onnx_file, qtm_file, wire
from qtool.model import Model, fingerprint

GOLDEN = Path(__file__).resolve().parent.parent / "tests" / "golden"
MEMORY_BYTES = 1 << 30  # more than the process has at the start
CASE_SECONDS = 5
MAX_FINDINGS = 20
BAD_SHARE = 0.2  # of cases that start from a file that is bad already
SLOW_SHARE = 0.05  # of the others, that start from a file with many tensors
SAVED_SHARE = 0.3  # of models that load

wire.MIN_BYTES = 64  # so that the small files of tests/golden use what large files do


class Finding(Exception):
    """A case that went wrong without an exception of its own."""


def seeds() -> dict[str, list[tuple[str, bytes]]]:
    """Return the files that the cases start from, ending and bytes: quick, slow and bad ones."""
    good = sorted([*GOLDEN.glob("*.qtm"), *GOLDEN.glob("*.onnx")])
    paths = {
        "quick": [path for path in good if "dtypes" not in path.name],
        "slow": [path for path in good if "dtypes" in path.name],
        "bad": sorted([*GOLDEN.glob("bad/*.qtm"), *GOLDEN.glob("bad/*.onnx")]),
    }
    return {kind: [(p.suffix, p.read_bytes()) for p in found] for kind, found in paths.items()}


def case(
    number: int, seed: int, files: dict[str, list[tuple[str, bytes]]]
) -> tuple[str, bytes, random.Random]:
    """Return ending and bytes of one case, and the random numbers that it goes on with."""
    rng = random.Random(f"{seed}/{number}")
    share = rng.random()
    kind = "bad" if share < BAD_SHARE else "slow" if share < BAD_SHARE + SLOW_SHARE else "quick"
    ending, data = rng.choice(files[kind])
    mutate = mutate_qtm if ending == ".qtm" else mutate_onnx
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        data = mutate(rng, data)
    return ending, data, rng


def run(ending: str, data: bytes, rng: random.Random) -> str:
    """Load the bytes as a file of this kind; return what came of it.

    Raises:
        Exception: whatever should not have happened.
    """
    onnx_file.MAPPED_BYTES = rng.choice((0, 1 << 23))
    qtm_file.CHECK_BYTES = rng.choice((0, 1 << 26))
    try:
        if ending == ".qtm":
            model = qtm_file.loads(data, name="case")
        else:
            model = onnx_file.loads(data, name="case", folder=GOLDEN / "bad")
        before = fingerprint(model)
    except QtoolError as error:
        message = str(error)
        if "\n" in message or len(message) > 1000 or not message.isprintable():
            raise Finding(f"message of {len(message)} characters: {message[:200]!r}") from error
        return type(error).__name__
    if rng.random() < SAVED_SHARE:
        save_and_load(model, before)
    return "loaded"


def save_and_load(model: Model, before: str) -> None:
    """Check that a model which was loaded survives both formats."""
    again = qtm_file.loads(qtm_file.dumps(model), name="again")
    if fingerprint(again) != before:
        raise Finding("the .qtm of the model that was loaded is of another one")
    again = onnx_file.loads(onnx_file.dumps(again), name="again", folder=GOLDEN / "bad")
    if fingerprint(again) != before:
        raise Finding("the .onnx of the model that was loaded is of another one")


def guarded(ending: str, data: bytes, rng: random.Random) -> str:
    """Run a case within its time."""

    def late(*_: object) -> None:
        raise Finding(f"took more than {CASE_SECONDS} seconds")

    signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, CASE_SECONDS)
    try:
        return run(ending, data, rng)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def limit_memory() -> None:
    """Make allocations fail that go too far."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except FileNotFoundError:
        return  # only Linux counts address space in a way that can be limited
    limit = pages * resource.getpagesize() + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))


def fuzz(first: int, last: int, seed: int, keep: Path | None, go_on: Callable[[], bool]) -> int:
    """Run cases while go_on, print what came of them, and return the number of findings."""
    files = seeds()
    results: Counter[str] = Counter()
    findings = 0
    start = time.monotonic()
    for number in range(first, last):
        if not go_on() or findings == MAX_FINDINGS:
            break
        if number % 20_000 == 0 and number > first:
            print(f"{number} cases, {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
        ending, data, rng = case(number, seed, files)
        try:
            results[guarded(ending, data, rng)] += 1
        except Exception:
            findings += 1
            print(f"--- case {number} of seed {seed}, {ending}, {len(data)} bytes")
            text = traceback.format_exc(limit=-5)
            print(text.encode(errors="backslashreplace").decode()[-3000:])
            if keep is not None:
                keep.mkdir(parents=True, exist_ok=True)
                (keep / f"seed{seed}-case{number}{ending}").write_bytes(data)
    seconds = time.monotonic() - start
    print(f"{sum(results.values()) + findings} cases in {seconds:.0f} s: {dict(results)}")
    print(f"{findings} findings")
    return findings


def main() -> int:
    """Parse the command line and fuzz."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60, help="stop after so long")
    parser.add_argument("--cases", type=int, help="run so many cases instead, however long")
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for the files of findings")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    limit_memory()
    stop = time.monotonic() + options.seconds
    last = options.first + (options.cases if options.cases is not None else 1 << 62)
    go_on = (lambda: True) if options.cases is not None else (lambda: time.monotonic() < stop)
    return int(fuzz(options.first, last, options.seed, options.keep, go_on) > 0)


if __name__ == "__main__":
    sys.exit(main())
