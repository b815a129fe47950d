#!/usr/bin/env python3
"""Runs the whole chain on a network of sample_models/ with real data, and prints what came of it.

Each step is a command that you could type; it is printed as it runs. The results stay in
demo-out/.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
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
BENCH_SECONDS = 0.5
HURT = "dscnn"  # loses some points to 4-bit weights


def qtool(command: str, *arguments: object) -> str:
    """Run one qtool command, shown first; return what it wrote to standard output."""
    typed = [command, *map(str, arguments)]
    print(f"$ qtool {shlex.join(typed)}", flush=True)
    program = [sys.executable, "-m", "qtool", *typed, *QUIET]
    done = subprocess.run(program, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"demo: qtool {command} ended with exit code {done.returncode}")
    return done.stdout


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
    qtool("prune", "-i", calibrated, "--sparsity", 0.3, "-o", sparse)
    qtool("cluster", "-i", sparse, "--method", "grid", "--bits", 3.5, "-o", grids)
    qtool("pack", "-i", grids, "-o", packed)
    return {"float": frozen, "int8": static, "int8 weights only": weights, PACKED: packed}


def evaluate(model: Path, reference: Path, *options: object) -> dict[str, Any]:
    """Return what `qtool evaluate` finds on the labelled test samples."""
    test = ("--data", SAMPLES / "test.npz", *PREPROCESS)
    found: dict[str, Any] = json.loads(
        qtool("evaluate", "-i", model, "--reference", reference, *test, *options, "--json")
    )
    return found


def rows(name: str, artifacts: dict[str, Path]) -> list[tuple[str, ...]]:
    """Return a table's rows for one network: its artifacts, and how good each is."""
    sizes = {label: (path, (ROOT / path).stat().st_size) for label, path in artifacts.items()}
    reference, full = sizes.pop("float")
    found = []
    for label, (path, size) in sizes.items():
        result = evaluate(path, reference, "--batch", 32)
        low, high = result["drop_ci95"]
        drop = f"{result['drop']:+.2f} [{low:+.2f}, {high:+.2f}]"
        ratio, value = f"{size / full:.2f}x", f"{result['value']:.2f} %"
        agreement = f"{result['agreement']:.2f} %"
        found.append((name, label, f"{size:,}", ratio, value, drop, agreement))
        if label == PACKED:
            native = evaluate(path, path, "--runtime", "native", "--samples", 1000)
            numbers = (f"{native['value']:.2f} %", "", f"{native['agreement']:.2f} %")
            found.append((name, "the same, native", f"{size:,}", ratio, *numbers))
    top1 = f"{result['reference']:.2f} %"
    return [(name, "float", f"{full:,}", "1.00x", top1, "", ""), *found]


def speed_rows(name: str, artifacts: dict[str, Path]) -> list[tuple[str, ...]]:
    """Return rows for one network: who runs it how fast, and whether with the same answers."""
    int8, real = artifacts["int8"], artifacts["float"]
    # Both run the int8 model; the reference does in onnxruntime.
    native = evaluate(int8, int8, "--runtime", "native")
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
    """Return rows for a network that 4-bit weights hurt, and what `qtool tune` makes of it."""
    plain, tuned = OUTPUT / f"{HURT}.int4.onnx", OUTPUT / f"{HURT}.tuned.onnx"
    model, samples = SAMPLES / f"{HURT}.onnx", ("--data", SAMPLES / "calibration.npz", *PREPROCESS)
    qtool("quantize", "-i", model, *samples, "--weights", "int4", "-o", plain)
    some = ("--calibration", samples[1], "--data", f"{SAMPLES / 'test.npz'}[0:1000]", *PREPROCESS)
    qtool("tune", "-i", model, *some, "--max-drop", 1, "--trials", 4, "-o", tuned)
    artifacts = {"float": model, "int4 weights": plain, "tuned, 1 point": tuned}
    return rows(HURT, artifacts)


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
    (ROOT / OUTPUT).mkdir(exist_ok=True)
    start = time.perf_counter()
    with ThreadPoolExecutor(1) as beside:
        tuned = beside.submit(rescued)
        made = {name: chain(name) for name in options.networks}
        accuracy = [HEADER, *(row for name in made for row in rows(name, made[name]))]
        accuracy += tuned.result()
    speed = [SPEED_HEADER, *(row for name in made for row in speed_rows(name, made[name]))]
    n_seconds = time.perf_counter() - start
    for table in (accuracy, speed):
        print()
        show(table)
    print(f"\n4000 Fashion-MNIST test images; {n_seconds:.0f} s; the files are in {OUTPUT}/")


if __name__ == "__main__":
    main()
