#!/usr/bin/env python3
"""Times calibration beside plain inference and beside onnxruntime.quantization's calibrators.

On two models of the zoo (QTOOL_ZOO) with real samples: time per sample over plain onnxruntime
inference, rounds of all contestants in turn; peak memory for few and many samples, each in a
process of its own; and the time of all range methods on all tensors. One JSON line per case on
standard output, then a table on standard error. docs/statistics.md has figures.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnxruntime

import qtool
from qtool.data import open_samples
from qtool.stages.calibrate import calibrate
from qtool.statistics.ranges import RANGES

ROOT = Path(__file__).resolve().parent.parent
ZOO = Path(os.environ.get("QTOOL_ZOO", ROOT.parent / "shared" / "zoo"))
IMAGENET = {"scale": 1 / 255, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
CASES: dict[str, tuple[str, str, Any]] = {  # name -> model, data, preprocessing
    "squeezenet1_1": ("squeezenet1_1-torchvision", "imagenet-sample-1000/images", "imagenet"),
    "resnet20": ("resnet20-cifar10", "cifar10/cifar10_train_calib1000.npz", IMAGENET),
}
PEERS = ("MinMax", "Entropy", "Percentile")
GIGABYTE = 1 << 30
TIMED = {"squeezenet1_1": 64, "resnet20": 512}  # samples of a timed run
FEW, MANY = 32, 512
LIMIT_GB = 8  # of memory, for a peer that keeps the activations of every sample
HEADER = ["case", "threads", "ms/sample", "over plain", "with set-up"]


def path_of(case: str) -> Path:
    """Return the model file of a case."""
    return ZOO / "models" / CASES[case][0] / "model.onnx"


def samples_of(case: str, n: int) -> Any:
    """Return the first n samples of a case, decoded when they are asked for."""
    _, data, preprocess = CASES[case]
    inputs = qtool.load(path_of(case)).inputs()
    return open_samples(str(ZOO / "data" / data), inputs, preprocess=preprocess, samples=n)


class Decoded(list[Any]):
    """Samples in memory, which note when the first one of a run is taken."""

    started: float | None = None

    def __getitem__(self, index: Any) -> Any:
        if self.started is None:
            self.started = time.perf_counter()
        return super().__getitem__(index)


Timing = tuple[float, float]  # seconds of a whole run, and from its first sample on


def plain(case: str, samples: Decoded, threads: int) -> Timing:
    """Run the model as it is."""
    begin = time.perf_counter()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    providers = ["CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(str(path_of(case)), options, providers=providers)
    first = time.perf_counter()
    for sample in samples:
        session.run(None, sample.feeds)
    return time.perf_counter() - begin, time.perf_counter() - first


def ours(case: str, samples: Decoded, threads: int) -> Timing:
    """Calibrate with qtool."""
    begin = time.perf_counter()
    samples.started = None
    calibrate(qtool.load(path_of(case)), data=samples, threads=threads)
    assert samples.started is not None
    return time.perf_counter() - begin, time.perf_counter() - samples.started


def peer(case: str, samples: Any, method: str) -> Timing:
    """Calibrate with onnxruntime.quantization, which chooses the threads itself."""
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, calibrate

    class Reader(CalibrationDataReader):
        feeds: Iterator[Any] = (sample.feeds for sample in samples)

        def get_next(self) -> Any:
            return next(self.feeds, None)

    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        calibrator = calibrate.create_calibrator(
            str(path_of(case)),
            augmented_model_path=str(Path(folder) / "augmented.onnx"),
            calibrate_method=CalibrationMethod[method],
        )
        first = time.perf_counter()
        with contextlib.redirect_stdout(sys.stderr):  # it talks
            calibrator.collect_data(Reader())
            calibrator.compute_data()
    return time.perf_counter() - begin, time.perf_counter() - first


def speed(case: str, n: int, rounds: int) -> Iterator[dict[str, Any]]:
    """Yield the time per sample of each contestant; those of a round run in turn."""
    samples = Decoded(samples_of(case, n))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    contestants: dict[tuple[str, int], Callable[[], Timing]] = {}
    for threads in dict.fromkeys((1, cores or 1)):
        contestants["plain", threads] = lambda t=threads: plain(case, samples, t)
        contestants["qtool", threads] = lambda t=threads: ours(case, samples, t)
    for method in PEERS:
        contestants[method, cores or 1] = lambda m=method: peer(case, samples, m)
    found: dict[tuple[str, int], list[Timing]] = {key: [] for key in contestants}
    for _ in range(rounds):
        for key, run in contestants.items():
            if key[0] not in PEERS or len(found[key]) < 2:  # they are slow, and clearly so
                found[key].append(run())
    for (what, threads), timings in found.items():
        base = found["plain", threads]
        whole, running = ([t[i] / n * 1e3 for t in timings] for i in (0, 1))
        ratios = [t[1] / b[1] for t, b in zip(timings, base, strict=False)]
        yield {
            "bench": "calibrate-time", "model": case, "what": what, "threads": threads,
            "samples": n, "rounds": len(timings), "ms_best": min(running),
            "ms_median": statistics.median(running),
            "over_plain_best": min(running) / (min(b[1] for b in base) / n * 1e3),
            "over_plain_median": statistics.median(ratios),
            "ms_with_setup_median": statistics.median(whole),
        }  # fmt: skip


def peak(case: str, what: str, n: int) -> None:
    """Calibrate on n samples and print the peak memory; runs in a process of its own."""
    samples = samples_of(case, n)
    if what == "qtool":
        calibrate(qtool.load(path_of(case)), data=samples)
    else:
        resource.setrlimit(resource.RLIMIT_AS, (LIMIT_GB * GIGABYTE, LIMIT_GB * GIGABYTE))
        peer(case, samples, what)
    print(peak_bytes())


def peak_bytes() -> int:
    """Return the peak memory of this process; ru_maxrss may be that of the one that started it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def memory(case: str) -> Iterator[dict[str, Any]]:
    """Yield the peak memory of each contestant with few and with many samples."""
    for what in ("qtool", *PEERS):
        peaks: list[int | None] = []
        for n in (FEW, MANY):
            command = [sys.executable, __file__, "--peak", case, what, str(n)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            out_of_memory = any(word in done.stderr for word in ("MemoryError", "alloc"))
            if done.returncode and (what == "qtool" or not out_of_memory):
                raise SystemExit(done.stderr)
            peaks.append(int(done.stdout) if not done.returncode else None)
        few, many = peaks
        yield {
            "bench": "calibrate-memory", "model": case, "what": what, "samples": [FEW, MANY],
            "peak_bytes": peaks, "limit_bytes": None if what == "qtool" else LIMIT_GB * GIGABYTE,
            "growth": many / few - 1 if few and many else None,
        }  # fmt: skip


def ranges(case: str) -> dict[str, Any]:
    """Return the time of all range methods on all observed tensors."""
    found = calibrate(qtool.load(path_of(case)), data=samples_of(case, FEW)).statistics
    seconds = {}
    for name, method in RANGES.items():
        begin = time.perf_counter()
        for tensor in found.tensors.values():
            method(tensor, levels=256, symmetric=False)
        seconds[name] = time.perf_counter() - begin
    return {
        "bench": "ranges", "model": case, "tensors": len(found.tensors),
        "seconds": seconds, "total_seconds": sum(seconds.values()),
    }  # fmt: skip


def cells(found: dict[str, Any]) -> list[str]:
    """Return a line of the table."""
    case = f"{found['model']} {found.get('what', 'all range methods')}"
    if found["bench"] == "calibrate-time":
        over = f"{found['over_plain_best']:.2f}x, {found['over_plain_median']:.2f}x"
        best = f"{found['ms_best']:.3f}, {found['ms_median']:.3f}"
        return [case, str(found["threads"]), best, over, f"{found['ms_with_setup_median']:.3f}"]
    if found["bench"] == "ranges":
        return [case, f"{found['total_seconds']:.2f} s for {found['tensors']} tensors"]
    sizes = [
        f"{n} samples: " + ("more than the limit" if p is None else f"{p / 1e6:.0f} MB")
        for n, p in zip(found["samples"], found["peak_bytes"], strict=True)
    ]
    return [case, "peak memory", *sizes]


def main() -> None:
    """Measure the models named on the command line, or both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", metavar="MODEL", help=", ".join(CASES))
    parser.add_argument("--samples", type=int, help="samples of a timed run")
    parser.add_argument("--rounds", type=int, default=7, help="timed runs of each contestant")
    parser.add_argument("--peak", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.peak:
        peak(given.peak[0], given.peak[1], int(given.peak[2]))
        return
    machine = {"machine": platform.machine(), "onnxruntime": onnxruntime.__version__}
    rows = [HEADER]
    for case in given.models or CASES:
        n = given.samples or TIMED[case]
        for found in (*speed(case, n, given.rounds), *memory(case), ranges(case)):
            print(json.dumps(found | machine), flush=True)
            rows.append(cells(found))
    print("times: best, median of the rounds; over plain: of the bests, of the pairs' median",
          file=sys.stderr)  # fmt: skip
    widths = [max(len(row[i]) for row in rows if i < len(row)) for i in range(len(HEADER))]
    for row in rows:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False))
        print(line.rstrip(), file=sys.stderr)


if __name__ == "__main__":
    main()
