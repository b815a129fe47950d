#!/usr/bin/env python3
"""Measures accuracy after quantization, qtool's beside that of other tools, on labelled models.

For each model of bench_zoo: the same float model (as `qtool freeze` makes it), the same calibration
samples and the same evaluation samples; every result is evaluated by `qtool evaluate` against that
float model. The other tools run in the interpreter that --peers-python names, which has the
extra `qtool[bench]`; those after onnxsim start from the published model instead, which onnxsim
simplifies. A tool that fails is a line that says why.

Each figure is kept in FOLDER/figures.jsonl and not measured again, except by --again. Afterwards
a table of all that is known goes to standard output, and with --plot a picture of it to a file.
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
from accuracy_peers import SIMPLIFY
from accuracy_peers import WAYS as PEERS
from bench_zoo import CASES, ROOT, ZOO, qtool, take

OURS: dict[str, list[str]] = {
    "qtool": [],
    "qtool plain": ["--rounding", "nearest", "--correct", "none"],
    "qtool per-tensor": ["--per-tensor"],
    "qtool W4A8": ["--weights", "int4"],
    "qtool W4A8 plain": ["--weights", "int4", "--rounding", "nearest", "--correct", "none"],
}
AFTER_ONNXSIM = [SIMPLIFY + way for way in PEERS if not way.startswith("onnxsim")]
WAYS = [*OURS, *PEERS, *AFTER_ONNXSIM]
W8A8 = ["qtool", "qtool plain", *PEERS, *AFTER_ONNXSIM]
PEERS_SCRIPT = Path(__file__).with_name("accuracy_peers.py")
LONGEST_S = 3600
KEPT = ("reference", "value", "drop", "drop_ci95", "agreement", "n")


class Bench:
    """One model: its files, and a figure for each way to quantize it."""

    def __init__(self, name: str, folder: Path, python: str) -> None:
        case = self.case = CASES[name]
        preprocess = folder / f"{name}.json"
        if not isinstance(case.preprocess, str):
            preprocess.write_text(json.dumps(case.preprocess))
        self.name, self.folder, self.python = name, folder, python
        self.given = case.preprocess if isinstance(case.preprocess, str) else str(preprocess)
        self.calibration = take(case, case.calibration, folder / f"{name}-calibration")
        self.evaluation = take(case, case.evaluation, folder / f"{name}-evaluation")
        self.published, self.frozen = ZOO / "models" / case.model, folder / f"{name}.onnx"
        if not self.frozen.exists():
            qtool("freeze", "-i", self.published, "-o", self.frozen)

    def figure(self, way: str) -> dict[str, Any]:
        """Return the figures of one way; those of a failure say why."""
        words = way.replace(",", "").replace(" ", "-")
        output = self.folder / f"{self.name}.{words}.onnx"
        output.unlink(missing_ok=True)
        start = time.perf_counter()
        try:
            self.ours(output, OURS[way]) if way in OURS else self.theirs(output, way)
            seconds = round(time.perf_counter() - start, 1)
            report = json.loads(
                qtool("evaluate", "-i", output, "--reference", self.frozen,
                      "--data", self.evaluation, "--preprocess", self.given, "--json",
                      *self.case.options)
            )  # fmt: skip
        except (RuntimeError, SystemExit, subprocess.TimeoutExpired) as error:
            return {"model": self.name, "way": way, "failed": str(error)}
        found = {key: report.get(key) for key in KEPT}
        size = {"bytes": output.stat().st_size, "seconds": seconds}
        return {"model": self.name, "way": way, **size, **found}

    def ours(self, output: Path, options: list[str]) -> None:
        """Quantize with qtool, as its documentation says."""
        qtool("quantize", "-i", self.frozen, "--data", self.calibration, "--preprocess", self.given,
              *options, "-o", output)  # fmt: skip

    def theirs(self, output: Path, way: str) -> None:
        """Quantize with another tool, in a process of its own."""
        source = self.published if way.startswith(SIMPLIFY) else self.frozen
        command = [self.python, PEERS_SCRIPT, way, source, output, self.samples()]
        done = subprocess.run(
            list(map(str, command)), capture_output=True, text=True, check=False, timeout=LONGEST_S
        )
        if done.returncode or not output.exists():
            raise RuntimeError(last_line(done.stderr))

    def samples(self) -> Path:
        """Return the array of what the calibration samples feed the model with."""
        import qtool as library
        from qtool.data import open_samples

        path = self.folder / f"{self.name}-samples.npy"
        if not path.exists():
            inputs = library.load(self.frozen).inputs()
            samples = open_samples(str(self.calibration), inputs, preprocess=self.given)
            np.save(path, np.stack([next(iter(sample.feeds.values())) for sample in samples]))
        return path


def last_line(text: str) -> str:
    """Return the last line that says something, short."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:160] if lines else "it said nothing"


def known(path: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """Return the figures that were measured already, by model and way; the last ones count."""
    lines = path.read_text().splitlines() if path.exists() else []
    found = [json.loads(line) for line in lines]
    return {(one["model"], one["way"]): one for one in found}


def answer(found: dict[str, Any]) -> str:
    """Return the metric and the agreement."""
    agreement = found["agreement"]
    return f"{found['value']:.4g}" + (f", {agreement:.2f} %" if agreement is not None else "")


def drop(found: dict[str, Any]) -> str:
    """Return the drop and its paired 95 % interval."""
    low, high = found["drop_ci95"] or (float("nan"),) * 2
    return f"{found['drop']:.2f} [{low:.2f}, {high:.2f}]"


def cost(found: dict[str, Any]) -> str:
    """Return how long it took, and the size of the file."""
    return f"{found['seconds']:.0f} s, {found['bytes'] / 1000:,.0f} kB"


CELLS = {"metric, agreement": answer, "drop, 95 % interval": drop, "time, size": cost}


def summary(found: dict[tuple[str, str], dict[str, Any]], names: list[str]) -> str:
    """Return qtool's figures beside the highest agreement of a peer, as a Markdown table."""
    lines = [
        "",
        "| drop, agreement | float | qtool | best peer, by agreement | |",
        "| --- " * 5 + "|",
    ]
    for name in names:
        rivals = [found[name, way] for way in (*PEERS, *AFTER_ONNXSIM) if (name, way) in found]
        rivals = [one for one in rivals if one.get("agreement") is not None]
        if (name, "qtool") not in found or not rivals:
            continue
        ours, most = found[name, "qtool"], max(one["agreement"] for one in rivals)
        best = [one for one in rivals if one["agreement"] == most]
        first = min(best, key=lambda one: one["drop"])
        ways = [one["way"] for one in best if not one["way"].startswith(SIMPLIFY)]
        cells = [f"{one['drop']:.2f}, {one['agreement']:.2f} %" for one in (ours, first)]
        tools = ", ".join(ways or [first["way"]])
        lines.append(f"| {name} | {ours['reference']:.4g} | {' | '.join(cells)} | {tools} |")
    return "\n".join(lines)


def tables(found: dict[tuple[str, str], dict[str, Any]], names: list[str], ways: list[str]) -> str:
    """Return the figures as Markdown tables, then why tools failed."""
    lines = []
    for title, cell in CELLS.items():
        lines += ["", f"| {title} | float | {' | '.join(ways)} |", "| --- " * (len(ways) + 2) + "|"]
        for name in names:
            mine = [found[name, way] for way in ways]
            real = next((f"{one['reference']:.4g}" for one in mine if "failed" not in one), "")
            cells = ["fails" if "failed" in one else cell(one) for one in mine]
            lines.append(f"| {name} | {' | '.join([real, *cells])} |")
    failed = [found[name, way] for name in names for way in ways if "failed" in found[name, way]]
    return "\n".join([*lines, "", *(f"{f['model']}, {f['way']}: {f['failed']}" for f in failed)])


def measure(names: list[str], ways: list[str], folder: Path, python: str, again: bool) -> Path:
    """Measure what is not known yet; return the file with all figures."""
    path = folder / "figures.jsonl"
    done = {} if again else known(path)
    for name in names:
        missing = [way for way in ways if (name, way) not in done]
        bench = Bench(name, folder, python) if missing else None
        for way in missing:
            assert bench is not None
            line = json.dumps(bench.figure(way))
            print(line, file=sys.stderr, flush=True)
            with path.open("a") as file:
                file.write(line + "\n")
    return path


def main() -> None:
    """Measure the models named on the command line, or all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", metavar="MODEL", help=", ".join(CASES))
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "accuracy")
    parser.add_argument("--peers-python", metavar="PYTHON", default=sys.executable)
    parser.add_argument("--way", action="append", choices=WAYS, help="only these; repeatable")
    parser.add_argument("--again", action="store_true", help="measure also what is known")
    parser.add_argument("--plot", type=Path, metavar="SVG")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    names, ways = options.models or list(CASES), options.way or W8A8
    path = measure(names, ways, options.folder, options.peers_python, options.again)
    found = known(path)
    print(summary(found, names))
    first = [way for way in ways if not way.startswith(SIMPLIFY)]
    for some in (first, [way for way in ways if way not in first]):
        if some:
            print(tables(found, names, some))
    if options.plot:
        from accuracy_plot import plot

        options.plot.write_text(plot([found[name, way] for name in names for way in ways]))


if __name__ == "__main__":
    main()
