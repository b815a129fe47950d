#!/usr/bin/env python3
"""Takes real models through freeze, calibrate, quantize and evaluate, beside onnxruntime.

For each model of the zoo (QTOOL_ZOO) that has labelled data: qtool's commands as a user types
them, and onnxruntime.quantization.quantize_static (QDQ, per channel, MinMax) of the same frozen
model with the same calibration samples, both evaluated by `qtool evaluate` against the float
model. One JSON line per model on standard output, then a table on standard error.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
ZOO = Path(os.environ.get("QTOOL_ZOO", ROOT.parent / "shared" / "zoo"))
Part = slice | tuple[slice, ...]
RGB_MEAN, RGB_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Case:
    """One model, and how to take calibration and evaluation samples from its data."""

    model: str
    data: str
    preprocess: dict[str, Any] | str = "none"
    calibration: tuple[str, Part] = ("", slice(None))  # file of the data's folder, samples
    evaluation: tuple[str, Part] = ("", slice(None))
    options: list[str] = field(default_factory=list)  # of qtool evaluate


CIFAR = {
    "calibration": ("cifar10_train_calib1000.npz", slice(0, 1000)),
    "evaluation": ("cifar10_test_2000.npz", slice(None)),
}
EVERY_FOURTH, THE_REST = (
    slice(0, None, 4),
    (slice(1, None, 4), slice(2, None, 4), slice(3, None, 4)),
)
IMAGES = {"calibration": ("", EVERY_FOURTH), "evaluation": ("", THE_REST)}
CASES = {
    "resnet20": Case(
        "resnet20-cifar10/model_unfused_bn.onnx", "cifar10",
        {"scale": 1 / 255, "mean": RGB_MEAN, "std": RGB_STD}, **CIFAR,
    ),
    "resnet8": Case("mlperf-tiny-resnet8-cifar10/model.onnx", "cifar10", "none", **CIFAR),
    "dscnn-kws": Case(
        "mlperf-tiny-dscnn-kws/model.onnx", "kws01-mfcc", {"mean": 83, "std": 1 / 0.5847029},
        ("kws01_500.npz", slice(0, 100)), ("kws01_500.npz", slice(100, None)),
    ),
    "vww": Case(
        "mlperf-tiny-mobilenetv1-0.25-vww/model.onnx", "vww-coco128", "unit",
        ("vww_coco128_96.npz", slice(0, 128)), ("vww_coco128_96.npz", slice(128, None)),
    ),
    "fashion-cnn": Case(
        "fashion-cnn/model.onnx", "fashion-mnist", {"channels": "GRAY", "scale": 1 / 255},
        ("fashion_train_5000.npz", slice(0, 1000)), ("fashion_test.npz", slice(None)),
    ),
    "mnist-cntk": Case(
        "mnist-cntk/model.onnx", "mnist", {"channels": "GRAY"},
        ("mnist_train.npz", slice(0, 1000)), ("mnist_test.npz", slice(None)),
    ),
    "autoencoder": Case(
        "mlperf-tiny-fc-autoencoder-ad/model.onnx", "ad01-toycar-sample", "none",
        ("ad01_normal_windows.npz", slice(0, None, 2)),
        ("ad01_normal_windows.npz", slice(1, None, 2)),
        ["--metric", "mse", "--target", "input"],
    ),
    "squeezenet1_1": Case(
        "squeezenet1_1-torchvision/model.onnx", "imagenet-sample-1000", "imagenet", **IMAGES
    ),
    "mobilenet_v1_0.75": Case(
        "mobilenet_v1_0.75_224/model.onnx", "imagenet-sample-1000", "tf", **IMAGES
    ),
}  # fmt: skip


UNLABELLED: dict[str, tuple[str, dict[str, Any] | None]] = {
    "ultraface": (
        "ultraface-rfb-320/model.onnx", {"resize": [240, 320], "mean": 127, "std": 128},
    ),
    "ppocrv4-det": (
        "ppocrv4-det/model.onnx",
        {"channels": "BGR", "resize": [320, 320], "mean": 127.5, "std": 127.5},
    ),
    "silero-vad": ("silero-vad-lstm/model.onnx", None),
}  # fmt: skip


ALL = (*CASES, *UNLABELLED)
HEADER = ["model", "MACs %", "size", "float", "qtool", "drop", "agree", "peer", "drop", "agree"]


def qtool(command: str, *arguments: object) -> str:
    """Run a qtool command, shown first; return what it wrote to standard output."""
    typed = [command, *map(str, arguments)]
    print(f"$ qtool {shlex.join(typed)}", file=sys.stderr, flush=True)
    program = [sys.executable, "-m", "qtool", *typed]
    done = subprocess.run(program, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"qtool {command} ended with exit code {done.returncode}")
    return done.stdout


def take(case: Case, part: tuple[str, Part], path: Path) -> Path:
    """Write the samples of one part where --data finds them; return what --data takes."""
    name, chosen = part
    slices = chosen if isinstance(chosen, tuple) else (chosen,)
    source = ZOO / "data" / case.data
    if not name:
        rows = [line.split(",") for line in (source / "labels.csv").read_text().splitlines()[1:]]
        lines = [f"{source / 'images' / row[0]} {row[1]}" for s in slices for row in rows[s]]
        path = path.with_name(f"{path.name}.txt")  # a name may have dots of its own
        path.write_text("\n".join(lines) + "\n")
        return path
    with np.load(source / name) as arrays:
        kept = {key: arrays[key] for key in ("x", "y") if key in arrays}
    parts = {key: np.concatenate([v[s] for s in slices]) for key, v in kept.items()}
    path = path.with_name(f"{path.name}.npz")
    np.savez(path, **parts)
    return path


def peer(frozen: Path, output: Path, data: Path, preprocess: str) -> None:
    """Quantize with onnxruntime: static, QDQ, per channel, MinMax, the same samples."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

    import qtool as library
    from qtool.data import open_samples

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            model = library.load(frozen)
            samples = open_samples(str(data), model.inputs(), preprocess=preprocess)
            self.feeds: Iterator[Any] = (sample.feeds for sample in samples)

        def get_next(self) -> Any:
            return next(self.feeds, None)

    quantize_static(
        str(frozen), str(output), Reader(), quant_format=QuantFormat.QDQ, per_channel=True
    )


def measure(name: str, case: Case, folder: Path) -> dict[str, Any]:
    """Return the figures of one model, ours and the peer's."""
    preprocess = folder / f"{name}.json"
    if not isinstance(case.preprocess, str):
        preprocess.write_text(json.dumps(case.preprocess))
    given = case.preprocess if isinstance(case.preprocess, str) else str(preprocess)
    calibration = take(case, case.calibration, folder / f"{name}-calibration")
    evaluation = take(case, case.evaluation, folder / f"{name}-evaluation")
    frozen, calibrated = folder / f"{name}.onnx", folder / f"{name}.qtm"
    ours, theirs = folder / f"{name}.int8.onnx", folder / f"{name}.peer.onnx"

    qtool("freeze", "-i", ZOO / "models" / case.model, "-o", frozen)
    qtool("calibrate", "-i", frozen, "--data", calibration, "--preprocess", given, "-o", calibrated)
    coverage = json.loads(qtool("quantize", "-i", calibrated, "-o", ours, "--json"))
    peer(frozen, theirs, calibration, given)
    compared = [
        json.loads(
            qtool("evaluate", "-i", model, "--reference", frozen, "--data", evaluation,
                  "--preprocess", given, "--json", *case.options)
        )
        for model in (ours, theirs)
    ]  # fmt: skip
    return {
        "model": name,
        "coverage_macs": coverage["macs"]["fraction"],
        "bytes": [path.stat().st_size for path in (frozen, ours, theirs)],
        "ours": compared[0],
        "onnxruntime": compared[1],
    }


def row(found: dict[str, Any]) -> list[str]:
    """Return the cells of a model's line in the table."""
    size = found["bytes"]
    cells = [found["model"], f"{100 * found['coverage_macs']:.1f}", f"{size[1] / size[0]:.3f}"]
    cells.append(f"{found['ours']['reference']:.4g}")
    for side in ("ours", "onnxruntime"):
        report = found[side]
        low, high = report["drop_ci95"] or (float("nan"),) * 2
        cells.append(f"{report['value']:.4g}")
        cells.append(f"{report['drop']:.2f} [{low:.2f}, {high:.2f}]")
        cells.append("" if report["agreement"] is None else f"{report['agreement']:.2f}")
    return cells


def mode_row(found: dict[str, Any]) -> list[str]:
    """Return the cells of a line in the table of models without labels."""
    size, sqnr = found["bytes"], found["sqnr"]
    values = ", ".join(f"{name} {'exact' if v is None else f'{v:.1f}'}" for name, v in sqnr.items())
    share = f"{100 * found['coverage_macs']:.1f}"
    return [found["model"], found["mode"], share, f"{size[1] / size[0]:.3f}", values]


def speechlike(n_frames: int = 400) -> dict[str, np.ndarray]:
    """Return frames of made-up speech for silero-vad: gliding tones in bursts, and noise."""
    rng = np.random.default_rng(0)
    time = np.arange(512 * n_frames) / 16000
    pitch = 2 * np.pi * (120 * time + 8 * np.sin(2 * np.pi * 0.7 * time))
    voice = sum(np.sin(k * pitch) / k for k in range(1, 12)) * (np.sin(2 * np.pi * 0.4 * time) > 0)
    sound = (0.1 * voice + 0.01 * rng.standard_normal(len(time))).astype(np.float32)
    frames = np.lib.stride_tricks.sliding_window_view(np.pad(sound, (64, 0)), 576)[::512]
    clips = frames.reshape(-1, 50, 576)
    state = np.zeros((len(clips), 1, 1, 128), np.float32)
    return {"input": clips, "h": state, "c": state}


def fidelity(name: str, folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the SQNR of each output of a model without labels, for each mode of quantize."""
    model, preprocess = UNLABELLED[name]
    frozen, calibrated = folder / f"{name}.onnx", folder / f"{name}.qtm"
    given: list[object] = []
    if preprocess is None:
        np.savez(folder / f"{name}-calibration.npz", **{k: v[::2] for k, v in speechlike().items()})
        np.savez(folder / f"{name}-evaluation.npz", **{k: v[1::2] for k, v in speechlike().items()})
        parts = [folder / f"{name}-{part}.npz" for part in ("calibration", "evaluation")]
    else:
        path = folder / f"{name}.json"
        path.write_text(json.dumps(preprocess))
        given = ["--preprocess", path]
        case = Case(model, "imagenet-sample-1000")
        parts = [
            take(case, ("", slice(start, None, 10)), folder / f"{name}-{start}") for start in (0, 1)
        ]
    qtool("freeze", "-i", ZOO / "models" / model, "-o", frozen)
    qtool("calibrate", "-i", frozen, "--data", parts[0], *given, "-o", calibrated)
    for mode in ("weight-only", "dynamic", "static"):
        output = folder / f"{name}.{mode}.onnx"
        coverage = json.loads(
            qtool("quantize", "-i", calibrated, "--mode", mode, "-o", output, "--json")
        )
        report = json.loads(
            qtool("evaluate", "-i", output, "--reference", frozen, "--data", parts[1], *given,
                  "--metric", "sqnr", "--json")
        )  # fmt: skip
        yield {
            "model": name,
            "mode": mode,
            "coverage_macs": coverage["macs"]["fraction"],
            "bytes": [path.stat().st_size for path in (frozen, output)],
            "sqnr": report["outputs"] or {"output": report["value"]},
        }


def main() -> None:
    """Measure the models named on the command line, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", metavar="MODEL", help=", ".join(ALL))
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "zoo")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    rows, modes = [HEADER], [["model", "mode", "MACs %", "size", "SQNR, dB"]]
    for name in arguments.models or ALL:
        if name in UNLABELLED:
            for found in fidelity(name, arguments.folder):
                print(json.dumps(found), flush=True)
                modes.append(mode_row(found))
        else:
            found = measure(name, CASES[name], arguments.folder)
            print(json.dumps(found), flush=True)
            rows.append(row(found))
    for table in (rows, modes):
        widths = [max(len(cells[i]) for cells in table) for i in range(len(table[0]))]
        for cells in table:
            line = "  ".join(c.ljust(w) for c, w in zip(cells, widths, strict=True))
            print(line.rstrip(), file=sys.stderr)


if __name__ == "__main__":
    main()
