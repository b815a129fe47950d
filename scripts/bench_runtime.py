#!/usr/bin/env python3
"""Times the native runtime beside its peers on real networks, all in one process and in turn.

Networks: six of the zoo (QTOOL_ZOO), and MobileNetV2 and ResNet-50 with seeded random weights.
Contestants, on the same inputs: the native runtime and onnxruntime on qtool's int8 model,
onnxruntime on the float model, and OpenVINO on the int8 model that NNCF makes of the same float
model, where `pip install 'qtool[bench]'` has been. Ranges come from random samples: they do not
matter for time. Load time and memory are those of processes of their own. Prints a table, or with
--json one line per network and number of threads as it is measured. QTOOL_ISA limits the native
runtime's instruction set.

Quantizing a large network for OpenVINO takes minutes: --models FOLDER --prepare does so beforehand,
and --models FOLDER alone then only measures.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from bench_networks import mobilenet_v2, resnet_50

import qtool
from qtool.data import open_samples
from qtool.model import Model
from qtool.runtime.footprint import footprint, measure, open_session
from qtool.runtime.timing import interleave
from qtool.runtime.trial import random_feeds
from qtool.shapes import with_shapes
from qtool.stages.bench import machine

ROOT = Path(__file__).resolve().parent.parent
ZOO = Path(os.environ.get("QTOOL_ZOO", ROOT.parent / "shared" / "zoo"))
IN_ZOO = {
    "squeezenet1_1": "squeezenet1_1-torchvision",
    "mobilenet_v1_0.75": "mobilenet_v1_0.75_224",
    "resnet8": "mlperf-tiny-resnet8-cifar10",
    "resnet20": "resnet20-cifar10",
    "dscnn-kws": "mlperf-tiny-dscnn-kws",
    "vww": "mlperf-tiny-mobilenetv1-0.25-vww",
}
BUILT: dict[str, Callable[[], Any]] = {"mobilenet_v2": mobilenet_v2, "resnet_50": resnet_50}
NETWORKS = [*IN_ZOO, *BUILT]
NATIVE, PEERS = "native int8", ("onnxruntime int8", "onnxruntime float", "openvino int8")
CALIBRATION = 8  # samples

Feeds = Mapping[str, np.ndarray]


def float_model(name: str) -> Model:
    """Return the frozen float network with a batch of 1."""
    if name in BUILT:
        return Model(ir.from_proto(BUILT[name]()))
    loaded = qtool.load(ZOO / "models" / IN_ZOO[name] / "model.onnx")
    return qtool.freeze(with_shapes(loaded))


def make_openvino(path: str, feeds: Sequence[Feeds], output: str) -> None:
    """Save what NNCF makes of a float model."""
    import nncf
    import openvino

    data = nncf.Dataset([dict(f) for f in feeds])
    with contextlib.redirect_stdout(sys.stderr):  # it shows progress
        quantized = nncf.quantize(openvino.Core().read_model(path), data, subset_size=len(feeds))
    openvino.save_model(quantized, output)


def open_openvino(path: str, threads: int) -> Any:
    """Return a request whose infer() runs a saved model."""
    import openvino

    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    return openvino.Core().compile_model(path, "CPU", settings).create_infer_request()


def has_openvino() -> bool:
    """Tell whether OpenVINO and NNCF are installed."""
    return all(find_spec(name) is not None for name in ("openvino", "nncf"))


def prepare(name: str, folder: Path) -> dict[str, str]:
    """Return the files of a network by kind, made where the folder does not have them yet."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = {kind: folder / f"{kind}.onnx" for kind in ("int8", "float")}
    paths["feeds"] = folder / "feeds.npz"
    if has_openvino():
        paths["openvino"] = folder / "int8.xml"
    if not all(path.exists() for path in paths.values()):
        real = float_model(name)
        specs = real.inputs()
        data = open_samples(None, specs, random=True, samples=CALIBRATION)
        qtool.save(real, paths["float"])
        qtool.save(qtool.quantize(real, data=data, mode="static"), paths["int8"])
        np.savez(paths["feeds"], **random_feeds(specs))
        if has_openvino():
            make_openvino(str(paths["float"]), [s.feeds for s in data], str(paths["openvino"]))
    return {kind: str(path) for kind, path in paths.items()}


def cases(
    name: str, threads: Sequence[int], seconds: float, models: Path
) -> Iterator[dict[str, Any]]:
    """Yield the times of one network for each number of threads."""
    paths = prepare(name, models / name)
    with np.load(paths["feeds"]) as stored:
        feeds = dict(stored)
    for n in threads:
        runs = contestants(paths, n)
        times = interleave(
            {who: lambda run=run: run(feeds) for who, run in runs.items()}, seconds=seconds
        )
        yield line(name, n, times) | footprints(paths, paths["feeds"], n)


def contestants(paths: Mapping[str, str], threads: int) -> dict[str, Callable[[Feeds], object]]:
    """Return who takes part, by name."""
    found: dict[str, Callable[[Feeds], object]] = {}
    for who in (NATIVE, *PEERS[:2]):
        runtime, kind = who.split()
        session = open_session(runtime, paths[kind], threads)
        found[who] = lambda fed, run=session.run: run(None, fed)
    if "openvino" in paths:
        request = open_openvino(paths["openvino"], threads)
        found[PEERS[2]] = lambda fed: request.infer(fed, share_inputs=True)
    return found


def line(name: str, threads: int, times: Mapping[str, Any]) -> dict[str, Any]:
    """Return the times, and the native runtime's ratio to the best peer by the fastest run."""
    peers = [who for who in times if who != NATIVE]
    best = min(peers, key=lambda who: times[who].minimum)
    ratio, low, high = times[best].over(times[NATIVE])
    return {
        "bench": "runtime",
        "network": name,
        "threads": threads,
        "min_ms": {who: t.minimum for who, t in times.items()},
        "median_ms": {who: t.median for who, t in times.items()},
        "best_peer": best,
        "ratio_min": times[best].minimum / times[NATIVE].minimum,
        "ratio_median": ratio,
        "ratio_quartiles": [low, high],
        "isa": os.environ.get("QTOOL_ISA", ""),
        "machine": machine(),
    }


def footprints(paths: Mapping[str, str], feeds: str, threads: int) -> dict[str, Any]:
    """Return load time and memory of each, in processes of their own."""
    found = {}
    for who in (NATIVE, *PEERS[:2]):
        runtime, kind = who.split()
        found[who] = footprint(runtime, paths[kind], feeds, threads)
    if "openvino" in paths:
        alone = [sys.executable, __file__, "--footprint", paths["openvino"], feeds, str(threads)]
        done = subprocess.run(alone, capture_output=True, text=True, check=True)
        found[PEERS[2]] = json.loads(done.stdout)
    return {key: {who: f[key] for who, f in found.items()} for key in ("load_ms", "peak_mb")}


def openvino_footprint(path: str, feeds: str, threads: int) -> dict[str, float]:
    """Return load time and memory of OpenVINO in this process."""
    import openvino

    assert openvino.Core  # imported, which is no part of loading a model
    with np.load(feeds) as stored:
        fed = dict(stored)
    return measure(lambda: open_openvino(path, threads), lambda r: r.infer(fed, share_inputs=True))


def table(found: Sequence[Mapping[str, Any]]) -> str:
    """Return the results as a Markdown table."""
    shown = [who for who in (NATIVE, *PEERS) if any(who in f["min_ms"] for f in found)]
    rows = [
        ["network", "threads", *(f"{who}, median (min) ms" for who in shown),
         "best peer / native, min", "median [quartiles]", "load ms of each", "memory MB of each"],
    ]  # fmt: skip
    for f in found:
        low, high = f["ratio_quartiles"]
        rows.append([
            f["network"], str(f["threads"]),
            *(f"{f['median_ms'][who]:.3f} ({f['min_ms'][who]:.3f})" if who in f["min_ms"] else ""
              for who in shown),
            f"{f['ratio_min']:.2f} ({f['best_peer']})",
            f"{f['ratio_median']:.2f} [{low:.2f}, {high:.2f}]",
            *(" / ".join(f"{v:.0f}" for v in f[key].values()) for key in ("load_ms", "peak_mb")),
        ])  # fmt: skip
    rows.insert(1, ["---", *["---:"] * (len(rows[0]) - 1)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def report(
    networks: Sequence[str], threads: Sequence[int], models: Path, given: argparse.Namespace
) -> None:
    """Print the results, each as it is measured or all as a table."""
    found = []
    for name in networks:
        for result in cases(name, threads, given.seconds, models):
            found.append(result)
            if given.json:
                print(json.dumps(result), flush=True)
    if not given.json:
        print(table(found))


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help=", ".join(NETWORKS))
    parser.add_argument("--threads", default="1,2", metavar="N,...")
    parser.add_argument("--seconds", type=float, default=5.0, help="for each network and threads")
    parser.add_argument("--json", action="store_true", help="print JSON lines, not a table")
    parser.add_argument(
        "--models",
        type=Path,
        metavar="FOLDER",
        help="keep what is prepared here, and use what is there already",
    )
    parser.add_argument("--prepare", action="store_true", help="only fill the folder of --models")
    parser.add_argument("--footprint", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.footprint is not None:
        path, feeds, threads = given.footprint
        print(json.dumps(openvino_footprint(path, feeds, int(threads))))
        return
    unknown = set(given.networks) - set(NETWORKS)
    if unknown:
        parser.error(f"no network named {min(unknown)}; known: {', '.join(NETWORKS)}")
    warnings.filterwarnings("ignore")  # of NNCF and what it imports
    if not has_openvino():
        print("OpenVINO is not there: pip install 'qtool[bench]'", file=sys.stderr)
    if given.prepare and given.models is None:
        parser.error("--prepare needs --models")
    networks = given.networks or NETWORKS
    with tempfile.TemporaryDirectory(prefix="qtool-") as folder:
        models = given.models or Path(folder)
        if given.prepare:
            for name in networks:
                prepare(name, models / name)
        else:
            report(networks, [int(n) for n in given.threads.split(",")], models, given)


if __name__ == "__main__":
    main()
