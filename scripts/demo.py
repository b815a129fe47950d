#!/usr/bin/env python3
"""Runs the whole chain on a network of sample_models/ with real data, and prints what came of it.

Each step is a command that you could type; it is printed as it runs. The results stay in
demo-out/. The commands run in processes that fork from one which has imported everything, because
twenty interpreters would spend half of the time on their imports, and each on a core of its own.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import os
import queue
import shlex
import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
OUTPUT = Path("demo-out")
SAMPLES = Path("sample_models")
NETWORKS = ("resnet", "dscnn", "mlp")
PREPROCESS = ("--preprocess", SAMPLES / "preprocess.toml")
QUIET: list[str] = []
PACKED = "pruned, on grids, packed"
HEADER = ("model", "artifact", "bytes", "of float", "top-1", "drop, 95 % interval", "agreement")
SPEED_HEADER = ("model", "runtime", "ms", "times native", "load ms", "MB", "top-1", "same answers")
BENCH_SECONDS = 0.3
FREE_CORES: queue.SimpleQueue[int] = queue.SimpleQueue()
PROCESSES = multiprocessing.get_context("forkserver")
IMPORTED = [f"qtool.stages.{name}" for name in ("calibrate", "quantize", "tune", "bench")]
HURT = "dscnn"  # loses many points to 4-bit weights with one scale for all channels
TEST, PART, OTHERS = SAMPLES / "test.npz", "[0:1000]", "[1000:4000]"  # tune sees PART only


def qtool(command: str, *arguments: object) -> str:
    """Run one qtool command, shown first; return what it wrote to standard output."""
    typed = [command, *map(str, arguments)]
    print(f"$ qtool {shlex.join(typed)}", flush=True)
    core = FREE_CORES.get()
    reader, writer = PROCESSES.Pipe(duplex=False)
    process = PROCESSES.Process(target=run, args=([*typed, *QUIET], core, writer))
    process.start()
    writer.close()
    try:
        text: str = reader.recv()
    except EOFError:  # it could not even start
        text = ""
    process.join()
    FREE_CORES.put(core)
    if process.exitcode:
        sys.exit(f"demo: qtool {command} ended with exit code {process.exitcode}")
    return text


def available_cores() -> list[int]:
    """Return the numbers of the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def run(typed: list[str], core: int, writer: Connection) -> None:
    """Run one command line on a core and send what it writes to standard output."""
    from qtool.cli.main import qtool as program

    os.chdir(ROOT)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {core})
    with redirect_stdout(io.StringIO()) as text:
        try:
            program.main(typed)
        finally:
            writer.send(text.getvalue())


def chain(name: str) -> dict[str, Path]:
    """Freeze, calibrate, quantize, compress one network; return the path of each artifact."""
    frozen, calibrated = OUTPUT / f"{name}.onnx", OUTPUT / f"{name}.qtm"
    static, weights = OUTPUT / f"{name}.int8.onnx", OUTPUT / f"{name}.weights.onnx"
    checkpoint = SAMPLES / f"{name}.weights.npz"
    bound = ("--weights", checkpoint) if (ROOT / checkpoint).exists() else ()
    qtool("freeze", "-i", SAMPLES / f"{name}.train.onnx", *bound, "-o", frozen)
    samples = ("--data", SAMPLES / "calibration.npz", *PREPROCESS)
    qtool("calibrate", "-i", frozen, *samples, "--gram", "-o", calibrated)
    qtool("quantize", "-i", calibrated, "-o", static)
    qtool("quantize", "-i", frozen, "--mode", "weight-only", "-o", weights)
    sparse, grids, packed = (
        OUTPUT / f"{name}.{end}" for end in ("sparse.qtm", "grids.onnx", "packed.qtm")
    )
    least = ("--sparsity", 0.3, "--scope", "global", *samples)  # where the outputs miss it least
    qtool("prune", "-i", calibrated, *least, "-o", sparse)
    qtool("cluster", "-i", sparse, "--method", "grid", "--bits", 3.5, "-o", grids)
    qtool("pack", "-i", grids, "-o", packed)
    return {"float": frozen, "int8": static, "int8 weights only": weights, PACKED: packed}


def evaluate(model: Path, reference: Path, *, part: str = "", **options: object) -> dict[str, Any]:
    """Return what `qtool evaluate` finds on the labelled test samples, or on a part of them."""
    typed = [f"--{key}={value}" for key, value in options.items()]
    test = ("--data", f"{TEST}{part}", *PREPROCESS, *typed)
    found: dict[str, Any] = json.loads(
        qtool("evaluate", "-i", model, "--reference", reference, *test, "--json")
    )
    return found


def rows(name: str, artifacts: dict[str, Path], part: str = "") -> list[tuple[str, ...]]:
    """Return a table's rows for one network: its artifacts, and how good each is."""
    sizes = {label: (path, (ROOT / path).stat().st_size) for label, path in artifacts.items()}
    reference, full = sizes.pop("float")
    with ThreadPoolExecutor() as pool:
        judged = {
            label: pool.submit(evaluate, path, reference, part=part, batch=32)
            for label, (path, _) in sizes.items()
        }
        packed = artifacts.get(PACKED)
        native = packed and pool.submit(evaluate, packed, packed, runtime="native", batch=32)
    found = []
    for label, (_, size) in sizes.items():
        result = judged[label].result()
        low, high = result["drop_ci95"]
        drop = f"{result['drop']:+.2f} [{low:+.2f}, {high:+.2f}]"
        ratio, value = f"{size / full:.2f}x", f"{result['value']:.2f} %"
        agreement = f"{result['agreement']:.2f} %"
        found.append((name, label, f"{size:,}", ratio, value, drop, agreement))
    if native:
        same = native.result()
        numbers = (f"{same['value']:.2f} %", "", f"{same['agreement']:.2f} %")
        found.append((name, "the same, native", f"{size:,}", ratio, *numbers))
    top1 = f"{result['reference']:.2f} %"
    return [(name, "float", f"{full:,}", "1.00x", top1, "", ""), *found]


def speed_rows(
    name: str, artifacts: dict[str, Path], native: dict[str, Any]
) -> list[tuple[str, ...]]:
    """Return rows for one network: who runs it how fast, and whether with the same answers.

    native: the int8 model evaluated in the native runtime, beside itself in onnxruntime.
    """
    int8, real = artifacts["int8"], artifacts["float"]
    top1 = {
        ("native", "input"): f"{native['value']:.2f} %",
        ("onnxruntime", "input"): f"{native['reference']:.2f} %",
    }
    agreement = {("native", "input"): f"{native['agreement']:.2f} %"}
    timed = ("--against-model", real, "--seconds", BENCH_SECONDS)
    found = []
    for t in json.loads(qtool("bench", "-i", int8, *timed, "--json"))["timings"]:
        who = (t["runtime"], t["model"])
        label = f"{t['runtime']} {'int8' if t['model'] == 'input' else 'float'}"
        numbers = (f"{t['min_ms']:.3f}", f"{t['ratio']:.1f}x", f"{t['load_ms']:.0f}")
        memory = f"{t['peak_mb']:.0f}"
        found.append((name, label, *numbers, memory, top1.get(who, ""), agreement.get(who, "")))
    return found


def rescued() -> list[tuple[str, ...]]:
    """Return rows for a network that plain 4-bit weights hurt, and what `qtool tune` makes of it.

    tune chooses by PART of the test samples; the rows are of the others.
    """
    plain, tuned = OUTPUT / f"{HURT}.int4.onnx", OUTPUT / f"{HURT}.tuned.onnx"
    model, samples = SAMPLES / f"{HURT}.onnx", SAMPLES / "calibration.npz"
    typed = ("-i", model, "--data", samples, *PREPROCESS, "--per-tensor")
    plainly = ("--weights", "int4", "--rounding", "nearest")
    qtool("quantize", *typed, *plainly, "-o", plain)
    some = ("--calibration", samples, "--data", f"{TEST}{PART}", *PREPROCESS, "--per-tensor")
    shutil.rmtree(ROOT / f"{tuned}.tune", ignore_errors=True)  # else it would know the answer
    qtool("tune", "-i", model, *some, "--max-drop", 1, "--trials", 2, "-o", tuned)
    artifacts = {"float": model, "int4 weights, per tensor": plain, "tuned, 1 point": tuned}
    return rows(HURT, artifacts, part=OTHERS)


def show(table: list[tuple[str, ...]]) -> None:
    """Print the table; the first two columns are text, the others right-aligned numbers."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        cells = [
            c.ljust(w) if i < 2 else c.rjust(w)
            for i, (c, w) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*", default=["resnet"], help=", ".join(NETWORKS))
    parser.add_argument("-v", "--verbose", action="store_true", help="show all that qtool says")
    options = parser.parse_args()
    QUIET[:] = [] if options.verbose else ["--quiet"]
    PROCESSES.set_forkserver_preload(IMPORTED)
    (ROOT / OUTPUT).mkdir(exist_ok=True)
    for core in available_cores():
        FREE_CORES.put(core)
    start = time.perf_counter()
    with ThreadPoolExecutor() as pool:
        tuned = pool.submit(rescued)
        made = {name: chain(name) for name in options.networks}
        int8 = {name: made[name]["int8"] for name in made}
        native = {n: pool.submit(evaluate, p, p, runtime="native") for n, p in int8.items()}
        accuracy = [HEADER, *(row for name in made for row in rows(name, made[name]))]
        accuracy += tuned.result()
    speed = [SPEED_HEADER]
    for name, artifacts in made.items():  # timed while nothing else runs
        speed += speed_rows(name, artifacts, native[name].result())
    n_seconds = time.perf_counter() - start
    for table in (accuracy, speed):
        print()
        show(table)
    print(f"\n4000 Fashion-MNIST test images; {HURT}: the 3000 that tune did not see")
    print(f"{n_seconds:.0f} s; the files are in {OUTPUT}/")


if __name__ == "__main__":
    main()
