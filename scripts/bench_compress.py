#!/usr/bin/env python3
"""Compresses real models without retraining, beside NNCodec and the publishers' int8 files.

Needs the zoo (QTOOL_ZOO). One JSON line per figure on standard output.

    curve    size against agreement of ImageNet nets at 5x to 12x; --nncodec PYTHON names an
             interpreter that has the nncodec package (its compiled coder is enough), for its
             curve on the same weights, evaluated on the same images
    small    the smallest file of small nets at no significant drop, beside int8, packed int8 and
             reference_int8.tflite
    kmeans   1e7 weights, 256 clusters, beside the optimum of a histogram 16 times as fine
"""

from __future__ import annotations

import argparse
import glob
import importlib.util
import json
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from bench_zoo import CASES, ROOT, ZOO, take

RATIOS = (5.0, 6.5, 8.0, 10.0, 12.0)
IMAGENET = ("squeezenet1_1", "mobilenet_v1_0.75")
SMALL = ("resnet20", "resnet8", "vww", "dscnn-kws")
SMALL_RATIOS = (4.0, 4.5, 5.0, 5.5, 6.0, 7.0, 8.0, 9.0, 10.0, 11.5, 13.5, 16.0)
QUANTIZATIONS = (-38, -35, -32, -30, -28, -25)  # NNCodec's qp


def say(**found: Any) -> None:
    print(json.dumps(found), flush=True)


def prepared(name: str, folder: Path) -> tuple[Any, Any, Any]:
    """Return the calibrated model with Gram matrices, and calibration and evaluation samples."""
    import qtool
    from qtool.stages.evaluate import samples_for

    case = CASES[name]
    given = case.preprocess
    preprocess = given
    if not isinstance(given, str):
        preprocess = str(folder / f"{name}.json")
        Path(preprocess).write_text(json.dumps(given))
    parts = [
        take(case, part, folder / f"{name}-{kind}")
        for part, kind in ((case.calibration, "calibration"), (case.evaluation, "evaluation"))
    ]
    path = folder / f"{name}.gram.qtm"
    if not path.exists():
        frozen = qtool.freeze(qtool.load(ZOO / "models" / case.model))
        data = samples_for(frozen, data=str(parts[0]), metric="agreement", preprocess=preprocess)
        qtool.save(qtool.calibrate(frozen, data=data, gram=True, threads=1), path)
    model = qtool.load(path)
    options = {"metric": "mse", "target": "input"} if case.options else {}
    learn = samples_for(model, data=str(parts[0]), metric="agreement", preprocess=preprocess)
    return model, learn, samples_for(model, data=str(parts[1]), preprocess=preprocess, **options)


def scored(model: Any, reference: Any, data: Any) -> dict[str, Any]:
    """Return drop and agreement of a model."""
    from qtool.stages.evaluate import evaluate

    report = evaluate(model, data=data, reference=reference, threads=2)
    return {"drop": report.drop, "ci95": report.drop_ci95, "agreement": report.agreement}


def curve(folder: Path, nncodec: str | None, names: list[str]) -> None:
    """Print size against agreement, ours and NNCodec's."""
    from qtool.formats import packed_size
    from qtool.stages.cluster import Clustering, Options, clusterable, float_bytes, sensitivities

    for name in names:
        model, learn, test = prepared(name, folder)
        options = Options(method="grid", bits=8)
        layers = clusterable(model, options)
        work = Clustering(model, layers, sensitivities(model, layers, learn), options, 2)
        full = float_bytes(model)
        for ratio in RATIOS:
            start = time.perf_counter()
            found = replace(work.at_size(full / ratio, max=True), statistics=None)
            n_bytes, fast = packed_size(found, max=True), packed_size(found)
            seconds = time.perf_counter() - start
            sizes = {"bytes": n_bytes, "fast_bytes": fast, "ratio": full / n_bytes}
            result = scored(found, model, test)
            say(what="curve", model=name, by="qtool", seconds=round(seconds, 1), **sizes, **result)
        if nncodec:
            for found in rivals(nncodec, model, layers, folder):
                n_bytes, other = found
                say(what="curve", model=name, by="nncodec", bytes=n_bytes, ratio=full / n_bytes,
                    **scored(other, model, test))  # fmt: skip


def rivals(python: str, model: Any, layers: Any, folder: Path) -> Iterator[tuple[int, Any]]:
    """Yield the bytes of NNCodec's stream and the model that it decodes to, for each qp."""
    from qtool.model import array
    from qtool.stages._weights import Edit

    kept: dict[str, Any] = {}
    for i, layer in enumerate(layers):
        kept[f"w{i}"] = layer.weights
        if layer.bias_moves and len(layer.node.inputs) > 2:
            kept[f"b{i}"] = np.asarray(array(layer.node.inputs[2]))
    source, target = folder / "nncodec-in.npz", folder / "nncodec-out.npz"
    np.savez(source, **kept)
    for qp in QUANTIZATIONS:
        typed = [python, __file__, "--code", str(source), str(target), str(qp)]
        done = subprocess.run(typed, capture_output=True, text=True, check=True)
        copy = model.copy()
        edit, decoded = Edit(copy), np.load(target)
        values = {v.name: v for v in copy.graph.initializers.values()}
        for i, layer in enumerate(layers):
            edit.store(values[layer.value.name], decoded[f"w{i}"])
            if f"b{i}" in kept:
                edit.store(values[layer.node.inputs[2].name], decoded[f"b{i}"])
        yield int(done.stdout.split()[-1]), copy


def code(source: str, target: str, qp: int) -> None:
    """Code the weights with NNCodec's dependent quantization and DeepCABAC; print the bytes.

    Its defaults: qp_density 2, qp -75 for biases, 10 bytes of header for each tensor. Only the
    compiled coder is imported: the package itself wants PyTorch.
    """
    package = importlib.util.find_spec("nncodec")
    assert package is not None, "this interpreter has no nncodec"
    [place] = package.submodule_search_locations or []
    [library] = glob.glob(f"{place}/extensions/deepCABAC*.so")
    spec = importlib.util.spec_from_file_location("deepCABAC", library)
    assert spec is not None
    coder = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(coder)  # type: ignore[union-attr]
    total, decoded = 0, {}
    density, unary, header = 2, 10, 10
    for name, values in np.load(source).items():
        weights = np.ascontiguousarray(values, np.float32)
        integers = np.zeros(weights.shape, np.int32)
        encoder = coder.Encoder()
        encoder.initCtxModels(unary, 0)
        wanted = qp if weights.ndim > 1 else -75
        used = encoder.quantLayer(weights, integers, 1, density, wanted, 0.0, unary, 0, 1)
        encoder = coder.Encoder()
        encoder.iae_v(6 + density, used + 38)
        encoder.initCtxModels(unary, 1)
        skip = np.array([not np.any(x) for x in integers], np.int32) * (weights.ndim > 1)
        off = coder.HdspMode.AlwaysOff, np.zeros(2, np.int8)
        encoder.encodeLayer(integers, 1, 0, 1, 0, 0, skip.astype(np.int32), *off, 0, 0)
        total += len(encoder.finish()) + header
        decoded[name] = np.zeros(weights.shape, np.float32)
        coder.Decoder().dequantLayer(decoded[name], integers, density, used, 0)
    np.savez(target, **decoded)
    print(total)


def small(folder: Path, names: list[str]) -> None:
    """Print the smallest file at no significant drop: the 95 % interval reaches 0."""
    import qtool
    from qtool.formats import packed_size
    from qtool.stages.cluster import Clustering, Options, clusterable, float_bytes, sensitivities

    for name in names:
        model, learn, test = prepared(name, folder)
        quantized = qtool.quantize(replace(model, preprocess=None))
        plain = folder / f"{name}.int8.onnx"
        qtool.save(quantized, plain)
        reference = (ZOO / "models" / CASES[name].model).parent / "reference_int8.tflite"
        say(what="int8", model=name, bytes=plain.stat().st_size,
            packed=packed_size(replace(quantized, statistics=None), max=True),
            tflite=reference.stat().st_size if reference.exists() else None,
            **scored(quantized, model, test))  # fmt: skip
        options = Options(method="grid", bits=8)
        layers = clusterable(model, options)
        work = Clustering(model, layers, sensitivities(model, layers, learn), options, 2)
        for ratio in SMALL_RATIOS:
            try:
                found = replace(work.at_size(float_bytes(model) / ratio, max=True), statistics=None)
            except qtool.errors.QtoolError as error:
                say(what="small", model=name, error=str(error))
                break
            result = scored(found, model, test)
            say(what="small", model=name, bytes=packed_size(found, max=True),
                significant=bool(result["ci95"] and result["ci95"][0] > 0), **result)  # fmt: skip


def kmeans(n: int = 10_000_000, k: int = 256) -> None:
    """Print time and error of k-means on heavy-tailed weights."""
    from qtool.compress import codebook

    values = np.random.default_rng(0).standard_t(5, n).astype(np.float32)
    start = time.perf_counter()
    centroids = codebook.kmeans(values, k)
    indices = codebook.nearest(values, centroids)
    seconds = time.perf_counter() - start
    error = float(np.mean((values - centroids[indices]) ** 2.0))
    codebook.BINS = 1 << 20
    best = codebook.optimal(codebook.points(values), k).astype(np.float32)
    least = float(np.mean((values - best[codebook.nearest(values, best)]) ** 2.0))
    say(what="kmeans", n=n, k=k, seconds=round(seconds, 2), above_optimum=error / least - 1)


def main() -> None:
    """Measure what the command line names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("what", nargs="?", choices=["curve", "small", "kmeans"])
    parser.add_argument("models", nargs="*")
    parser.add_argument("--nncodec", metavar="PYTHON")
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "compress")
    parser.add_argument("--code", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.code:
        code(given.code[0], given.code[1], int(given.code[2]))
        return
    given.folder.mkdir(parents=True, exist_ok=True)
    if given.what in (None, "kmeans"):
        kmeans()
    if given.what in (None, "curve"):
        curve(given.folder, given.nncodec, given.models or list(IMAGENET))
    if given.what in (None, "small"):
        small(given.folder, given.models or list(SMALL))


if __name__ == "__main__":
    main()
