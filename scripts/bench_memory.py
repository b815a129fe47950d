#!/usr/bin/env python3
"""Measures the peak memory of calibrate and quantize for few and many samples.

On two models of the zoo (QTOOL_ZOO) and a ResNet-50 with photographs: each run is a process of its
own, as a user types it, and its largest resident set is what the system counted. One JSON line per
run on standard output, then a Markdown table on standard error; an exit code of 1 says that a run
passed its --memory. docs/statistics.md has the table.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
ZOO = Path(os.environ.get("QTOOL_ZOO", ROOT.parent / "shared" / "zoo"))
CASES: dict[str, tuple[Path | None, str]] = {  # name -> model, preprocessing
    "mobilenet_v1_0.75": (ZOO / "models" / "mobilenet_v1_0.75_224" / "model.onnx", "tf"),
    "squeezenet1_1": (ZOO / "models" / "squeezenet1_1-torchvision" / "model.onnx", "imagenet"),
    "resnet_50": (None, "imagenet"),  # of bench_networks
}
RUNS: dict[str, list[str]] = {
    "calibrate": ["calibrate"],
    "calibrate --gram": ["calibrate", "--gram"],
    "quantize": ["quantize"],
    "quantize --weights int4": ["quantize", "--weights", "int4"],
}
UNITS = {"M": 10**6, "G": 10**9}  # of --memory
SAMPLES = (16, 64, 250)
RESNET_50 = "import sys, onnx, bench_networks as b; onnx.save(b.resnet_50(), sys.argv[1])"
KILOBYTE = 1024  # what ru_maxrss counts in, on Linux


def model_of(case: str, folder: Path) -> Path:
    """Return the float model of a case, frozen."""
    published, _ = CASES[case]
    frozen = folder / f"{case}.onnx"
    if not frozen.exists():
        made = [sys.executable, "-c", RESNET_50, frozen]
        if published:
            made = [sys.executable, "-m", "qtool", "freeze", "-q", "-i", published, "-o", frozen]
        subprocess.run(list(map(str, made)), cwd=Path(__file__).parent, check=True)
    return frozen


def photographs(folder: Path) -> Path:
    """Return a list of all photographs of the zoo."""
    images = sorted((ZOO / "data" / "imagenet-sample-1000" / "images").iterdir())
    path = folder / "photographs.txt"
    path.write_text("".join(f"{image}\n" for image in images))
    return path


def peak(command: list[str]) -> tuple[int, str]:
    """Run a command; return the bytes that it took at most, and its last line when it failed.

    This process has to be small: the system counts what it had when it started the command.
    """
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as running:
        assert running.stderr is not None
        said = running.stderr.read().strip().splitlines() or [""]
        _, status, used = os.wait4(running.pid, 0)
        running.returncode = os.waitstatus_to_exitcode(status)
    return used.ru_maxrss * KILOBYTE, said[-1] if running.returncode else ""


def measure(case: str, run: str, limit: str, n: int, folder: Path, threads: int) -> dict[str, Any]:
    """Return the peak of one run; limit is what --memory takes, or ""."""
    limited = ["--memory", limit] if limit else []
    command = [
        sys.executable, "-m", "qtool", *RUNS[run], *limited, "-i", model_of(case, folder),
        "--data", photographs(folder), "--preprocess", CASES[case][1], "--samples", n,
        "--threads", threads, "-o", folder / "made.qtm",
    ]  # fmt: skip
    print("$", shlex.join(map(str, command)), file=sys.stderr, flush=True)
    taken, failed = peak(list(map(str, command)))
    most = float(limit[:-1]) * UNITS[limit[-1]] if limit else None
    run = " ".join([run, *limited])
    found = {"bench": "memory", "model": case, "run": run, "samples": n, "threads": threads}
    return found | ({"failed": failed} if failed else {"peak_bytes": taken, "limit_bytes": most})


def table(found: Iterable[dict[str, Any]], samples: Iterable[int]) -> str:
    """Return the peaks as a Markdown table, in MB."""
    lines = [
        f"| peak, MB | {' | '.join(f'{n} samples' for n in samples)} |",
        "| --- " * (len(list(samples)) + 1) + "|",
    ]
    for (case, run), same in itertools.groupby(found, lambda one: (one["model"], one["run"])):
        cells = [
            "too little" if "failed" in one else f"{one['peak_bytes'] / 1e6:.0f}" for one in same
        ]
        lines.append(f"| {case}: {run} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure the models named on the command line, or all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", metavar="MODEL", help=", ".join(CASES))
    parser.add_argument("--run", action="append", choices=RUNS, help="only these; repeatable")
    parser.add_argument("--memory", action="append", help="limits of --gram as well; repeatable")
    parser.add_argument("--samples", type=int, action="append", help="repeatable")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "memory")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    samples, found = given.samples or SAMPLES, []
    runs = [(run, "") for run in given.run or RUNS]
    runs += [("calibrate --gram", limit) for limit in given.memory or ()]
    for case, (run, limit), n in itertools.product(given.models or CASES, runs, samples):
        found.append(measure(case, run, limit, n, given.folder, given.threads))
        print(json.dumps(found[-1]), flush=True)
    print(table(found, samples), file=sys.stderr)
    passed = [
        one for one in found if (one.get("limit_bytes") or float("inf")) < one.get("peak_bytes", 0)
    ]
    sys.exit(1 if passed else 0)


if __name__ == "__main__":
    main()
