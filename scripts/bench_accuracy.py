#!/usr/bin/env python3
"""Measures what each accuracy algorithm wins, beside onnxruntime and NNCF, on labelled models.

For each model of bench_zoo: the same frozen float model, the same calibration samples and the
same evaluation samples, all evaluated by `qtool evaluate` against the float model. NNCF runs in
the interpreter that --nncf-python names (it needs nncf and onnxruntime); without it, its columns
are left out. One JSON line per quantized model on standard output, then a table.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from bench_zoo import CASES, ROOT, ZOO, Case, qtool, take

VARIANTS: dict[str, list[str]] = {
    "qtool plain": ["--rounding", "nearest", "--correct", "none"],
    "qtool": [],
    "qtool per-tensor": ["--per-tensor"],
    "qtool W4A8": ["--weights", "int4"],
    "qtool W4A8 nearest": ["--weights", "int4", "--rounding", "nearest", "--correct", "none"],
}
ORT = ("MinMax", "Percentile")
NNCF = {"NNCF fast": "True", "NNCF full": "False"}
NNCF_SCRIPT = """
import sys, numpy as np, onnx, nncf
source, target, samples, fast = sys.argv[1:]
model = onnx.load(source)
weights = {w.name for w in model.graph.initializer}
name = [i.name for i in model.graph.input if i.name not in weights]
x = np.load(samples, mmap_mode="r")
data = nncf.Dataset(range(len(x)), lambda i: {name[0]: np.ascontiguousarray(x[i])})
done = nncf.quantize(model, data, subset_size=len(x), fast_bias_correction=fast == "True")
onnx.save(done, target)
"""


def feeds(frozen: Path, data: Path, preprocess: str) -> list[dict[str, np.ndarray]]:
    """Return what each sample feeds the model with."""
    import qtool as library
    from qtool.data import open_samples

    model = library.load(frozen)
    return [s.feeds for s in open_samples(str(data), model.inputs(), preprocess=preprocess)]


def onnxruntime_form(frozen: Path, output: Path, samples: list[Any], method: str) -> None:
    """Quantize with onnxruntime: static, QDQ, per channel."""
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        quantize_static,
    )

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter(samples)

        def get_next(self) -> Any:
            return next(self.left, None)

    quantize_static(
        str(frozen), str(output), Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
        calibrate_method=CalibrationMethod[method],
    )  # fmt: skip


def nncf_form(python: str, frozen: Path, output: Path, samples: list[Any], fast: str) -> None:
    """Quantize with NNCF in an interpreter of its own."""
    array = output.with_suffix(".npy")
    np.save(array, np.stack([next(iter(one.values())) for one in samples]))
    command = [python, "-c", NNCF_SCRIPT, str(frozen), str(output), str(array), fast]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    finally:
        array.unlink()
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["it failed"])[-1])


class Bench:
    """One model: its files, and a figure for each way to quantize it."""

    def __init__(self, name: str, case: Case, folder: Path) -> None:
        preprocess = folder / f"{name}.json"
        if not isinstance(case.preprocess, str):
            preprocess.write_text(json.dumps(case.preprocess))
        self.name, self.case, self.folder = name, case, folder
        self.given = case.preprocess if isinstance(case.preprocess, str) else str(preprocess)
        self.calibration = take(case, case.calibration, folder / f"{name}-calibration")
        self.evaluation = take(case, case.evaluation, folder / f"{name}-evaluation")
        self.frozen, self.calibrated = folder / f"{name}.onnx", folder / f"{name}.qtm"
        qtool("freeze", "-i", ZOO / "models" / case.model, "-o", self.frozen)
        qtool("calibrate", "-i", self.frozen, "--data", self.calibration, "--preprocess",
              self.given, "--gram", "-o", self.calibrated)  # fmt: skip

    def figure(self, way: str, make: Any) -> dict[str, Any]:
        """Return the figures of what make(output) writes; those of a failure say why."""
        output = self.folder / f"{self.name}.{way.replace(' ', '-')}.onnx"
        start = time.perf_counter()
        try:
            make(output)
        except (Exception, SystemExit) as error:
            return {"model": self.name, "way": way, "failed": str(error).splitlines()[0][:90]}
        seconds = round(time.perf_counter() - start, 1)
        report = json.loads(
            qtool("evaluate", "-i", output, "--reference", self.frozen, "--data", self.evaluation,
                  "--preprocess", self.given, "--json", *self.case.options)
        )  # fmt: skip
        kept = ("reference", "value", "drop", "drop_ci95", "agreement", "n_samples")
        found = {key: report.get(key) for key in kept}
        return {"model": self.name, "way": way, "seconds": seconds, **found}

    def ours(self, output: Path, options: list[str]) -> None:
        """Quantize with qtool: from one calibration, and the samples again for the biases."""
        more = ["--data", self.calibration, "--preprocess", self.given]
        more = [] if "none" in options else more
        qtool("quantize", "-i", self.calibrated, *more, *options, "-o", output)


def measure(name: str, folder: Path, python: str | None, ways: list[str]) -> Any:
    """Yield the figures of one model."""
    bench = Bench(name, CASES[name], folder)
    for way, options in VARIANTS.items():
        if way in ways:
            yield bench.figure(way, lambda out, o=options: bench.ours(out, o))
    samples = feeds(bench.frozen, bench.calibration, bench.given)
    for method in ORT:
        way = f"onnxruntime {method}"
        if way in ways:
            make = lambda out, m=method: onnxruntime_form(bench.frozen, out, samples, m)  # noqa: E731
            yield bench.figure(way, make)
    for way, fast in NNCF.items():
        if python is not None and way in ways:
            make = lambda out, f=fast: nncf_form(python, bench.frozen, out, samples, f)  # noqa: E731
            yield bench.figure(way, make)


def row(found: dict[str, Any]) -> list[str]:
    """Return the cells of a line of the table."""
    if "failed" in found:
        return [found["model"], found["way"], found["failed"]]
    low, high = found["drop_ci95"] or (float("nan"),) * 2
    agreement = found["agreement"]
    return [
        found["model"], found["way"], f"{found['reference']:.4g} -> {found['value']:.4g}",
        f"{found['drop']:.2f} [{low:.2f}, {high:.2f}]",
        "" if agreement is None else f"{agreement:.2f}", f"{found['seconds']} s",
    ]  # fmt: skip


def main() -> None:
    """Measure the models named on the command line, or all."""
    ways = [*VARIANTS, *(f"onnxruntime {m}" for m in ORT), *NNCF]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", metavar="MODEL", help=", ".join(CASES))
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "accuracy")
    parser.add_argument("--nncf-python", metavar="PYTHON")
    parser.add_argument("--way", action="append", choices=ways, help="only these; repeatable")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for name in arguments.models or CASES:
        for found in measure(name, arguments.folder, arguments.nncf_python, arguments.way or ways):
            print(json.dumps(found), flush=True)
            lines.append(" | ".join(row(found)))
    print("\n".join(lines), file=sys.stderr)


if __name__ == "__main__":
    main()
