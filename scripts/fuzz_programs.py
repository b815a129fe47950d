#!/usr/bin/env python3
"""Damage Programs of the native runtime, and run what its validator lets through.

    python scripts/fuzz_programs.py --cases 1000000

Lowers small graphs with every op, builds the runtime and fuzz_program.cpp with AddressSanitizer
and UndefinedBehaviorSanitizer, and lets it work. A finding is a report of theirs: exit code 1.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from runtime.seeds import programs  # noqa: E402


def build(folder: Path) -> Path:
    """Return the fuzzer, built with the sanitizers."""
    folder.mkdir(parents=True, exist_ok=True)
    configure = [
        "cmake", "-S", ROOT / "qtool" / "native", "-B", folder, "-DQTOOL_SANITIZE=ON",
        "-DCMAKE_BUILD_TYPE=RelWithDebInfo", f"-DPython_EXECUTABLE={sys.executable}",
    ]  # fmt: skip
    subprocess.run(configure, check=True, stdout=subprocess.DEVNULL)
    target = ["cmake", "--build", folder, "--target", "fuzz_program", "-j", "2"]
    subprocess.run(target, check=True, stdout=subprocess.DEVNULL)
    return folder / "fuzz_program"


def main() -> None:
    """Fuzz, and end with exit code 1 when there is a finding."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "fuzz")
    arguments = parser.parse_args()
    fuzzer = build(arguments.folder)
    seeds = []
    for name, content in programs().items():
        seeds.append(arguments.folder / f"{name}.qtprog")
        seeds[-1].write_bytes(content)
    done = subprocess.run([fuzzer, str(arguments.cases), str(arguments.seed), *seeds], check=False)
    sys.exit(1 if done.returncode else 0)


if __name__ == "__main__":
    main()
