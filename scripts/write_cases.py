#!/usr/bin/env python3
"""Write Programs with inputs and outputs for scripts/check_programs.cpp.

    python scripts/write_cases.py build/arm/cases --count 40

Random integer graphs of every kind that tests/runtime/exact.py draws, with the outputs that
tests/reference.py computes.
"""

from __future__ import annotations

import argparse
import struct
import sys
from collections.abc import Iterable
from pathlib import Path

from hypothesis import HealthCheck, given, settings

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import numpy as np  # noqa: E402
from runtime.exact import CASES, Case  # noqa: E402

from qtool.runtime import Session  # noqa: E402


def blobs(parts: Iterable[bytes]) -> bytes:
    """Return the parts, each after its length."""
    return b"".join(struct.pack("<Q", len(part)) + part for part in parts)


def content(case: Case) -> bytes:
    """Return the file of a case."""
    session = Session(case.graph.model(), isa="scalar")
    inputs = [case.graph.feeds[spec.name] for spec in session.get_inputs()]
    arrays = [np.ascontiguousarray(a) for a in (*inputs, *case.expected)]
    return blobs([session.program().to_bytes(), *(a.tobytes() for a in arrays)])


def drawn(op: str, count: int) -> list[Case]:
    """Return as many cases of an op, the same ones every time."""
    found: list[Case] = []

    @settings(
        max_examples=count, database=None, derandomize=True, deadline=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(case=CASES[op])
    def collect(case: Case) -> None:
        found.append(case)

    collect()
    return found


def main() -> None:
    """Write the files, and say how many."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=40, help="of each kind")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    n = 0
    for op in CASES:
        for i, case in enumerate(drawn(op, arguments.count)):
            (arguments.folder / f"{op}-{i}.case").write_bytes(content(case))
            n += 1
    print(f"{n} cases in {arguments.folder}")


if __name__ == "__main__":
    main()
