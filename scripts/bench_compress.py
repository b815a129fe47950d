#!/usr/bin/env python3
"""Compresses real models without retraining, beside NNCodec and the publishers' int8 files.

Needs the zoo (QTOOL_ZOO). One JSON line per figure on standard output.

    curve    size against agreement of ImageNet nets at 5x to 12x; --nncodec PYTHON names an
             interpreter that has the nncodec package (its compiled coder is enough): its curve on
             the same weights, evaluated on the same images, and for each of our files how many
             bytes NNCodec needs for the same agreement, between the two operating points around it
    small    the smallest file of small nets at no significant drop, beside int8, packed int8 and
             reference_int8.tflite: sizes fall by 7 % a step as long as the outputs of the
             calibration samples say that at most MOST % of predictions change; the last such file
             is measured on the evaluation samples, as are its two neighbours, for comparison
    kmeans   1e7 weights, 256 clusters, beside the optimum of a histogram 16 times as fine

All is chosen on calibration samples; drops and agreements are of the evaluation samples.
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
from math import erfc
from pathlib import Path
from typing import Any

import numpy as np
from bench_zoo import CASES, ROOT, ZOO, take

RATIOS = (5.0, 6.5, 8.0, 10.0, 12.0)
THREADS = 1
IMAGENET = ("squeezenet1_1", "mobilenet_v1_0.75")
SMALL = ("resnet20", "resnet8", "vww", "dscnn-kws")
MOST = 1.0  # % of predictions that a small net may be expected to change
STEP = 0.93  # of a size, between two files of a small net
QUANTIZATIONS = {  # NNCodec's qp, 4 to a doubling of its step
    "squeezenet1_1": (-38, -35, -32, -30, -28, -25),
    "mobilenet_v1_0.75": (-46, -42, -39, -36, -33, -30),
}


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


class Judge:
    """Drop and agreement on the evaluation samples, as qtool evaluate has them.

    The samples stay in memory and the float model runs once.
    """

    def __init__(self, model: Any, data: Any) -> None:
        self._samples = [data[i] for i in range(len(data))]
        self._labels = np.array([int(np.asarray(s.label).ravel()[0]) for s in self._samples])
        self._before = self._classes(model)

    def _classes(self, model: Any) -> Any:
        from qtool.runtime.ort import OrtSession

        session, name = OrtSession(model), model.outputs()[0].name
        return np.array([int(session.run(s.feeds)[name].argmax()) for s in self._samples])

    def score(self, model: Any) -> dict[str, Any]:
        """Return drop, its paired 95 % interval, and agreement of a model."""
        from qtool.metrics import METRICS
        from qtool.metrics._paired import difference

        after = self._classes(model)
        right, before = ((x == self._labels)[:, None] for x in (after, self._before))
        found = difference(METRICS["top1"], right, before)
        agreement = 100 * float(np.mean(after == self._before))
        return {"drop": found.drop, "ci95": found.ci95, "agreement": agreement}


def worked(model: Any, learn: Any) -> Any:
    """Return the clustering of a model on grids; the calibration samples weigh its layers."""
    from qtool.stages._followed import some
    from qtool.stages.cluster import Clustering, Options, clusterable, sensitivities

    options = Options(method="grid", bits=8)
    layers, samples = clusterable(model, options), some(learn)
    weights = sensitivities(model, layers, samples)
    return Clustering(model, layers, weights, options, THREADS, samples)


def curve(folder: Path, nncodec: str | None, names: list[str]) -> None:
    """Print size against agreement, ours and NNCodec's."""
    from qtool.formats import packed_size
    from qtool.stages.cluster import float_bytes

    for name in names:
        model, learn, test = prepared(name, folder)
        judge, full = Judge(model, test), float_bytes(model)
        work, peer = worked(model, learn), []
        if nncodec:
            for n_bytes, other in rivals(nncodec, model, QUANTIZATIONS[name], folder):
                result = judge.score(other)
                peer.append((n_bytes, result["agreement"]))
                say(what="curve", model=name, by="nncodec", bytes=n_bytes, ratio=full / n_bytes,
                    **result)  # fmt: skip
        for ratio in RATIOS:
            start = time.perf_counter()
            found = replace(work.at_size(full / ratio, max=True), statistics=None)
            n_bytes, fast = packed_size(found, max=True), packed_size(found)
            seconds = time.perf_counter() - start
            sizes = {"bytes": n_bytes, "fast_bytes": fast, "ratio": full / n_bytes}
            result = judge.score(found)
            needed = needed_bytes(peer, result["agreement"])
            smaller = None if needed is None else round(100 * (1 - n_bytes / needed), 1)
            say(what="curve", model=name, by="qtool", target=ratio, seconds=round(seconds, 1),
                **sizes, **result, nncodec_bytes=needed, smaller_percent=smaller)  # fmt: skip


def needed_bytes(points: list[tuple[int, float]], agreement: float) -> int | None:
    """Return the bytes of a peer at this agreement, on the line between the points around it.

    Log of the bytes against agreement. None where it is outside the peer's points.
    """
    ordered = sorted(points, key=lambda p: p[0])
    for (small, low), (large, high) in zip(ordered, ordered[1:], strict=False):
        if low <= agreement <= high and low < high:
            share = (agreement - low) / (high - low)
            return round(float(small * (large / small) ** share))
    return None


def rivals(
    python: str, model: Any, quantizations: tuple[int, ...], folder: Path
) -> Iterator[tuple[int, Any]]:
    """Yield the bytes of NNCodec's stream and the model that it decodes to, for each qp."""
    from qtool.model import array
    from qtool.stages._weights import Edit
    from qtool.stages.cluster import Options, clusterable

    layers = clusterable(model, Options(method="grid", bits=8))
    kept: dict[str, Any] = {}
    for i, layer in enumerate(layers):
        kept[f"w{i}"] = layer.weights
        if layer.bias_moves and len(layer.node.inputs) > 2:
            kept[f"b{i}"] = np.asarray(array(layer.node.inputs[2]))
    source, target = folder / "nncodec-in.npz", folder / "nncodec-out.npz"
    np.savez(source, **kept)
    for qp in quantizations:
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

    for name in names:
        model, learn, test = prepared(name, folder)
        judge = Judge(model, test)
        quantized = qtool.quantize(replace(model, preprocess=None))
        plain = folder / f"{name}.int8.onnx"
        qtool.save(quantized, plain)
        reference = (ZOO / "models" / CASES[name].model).parent / "reference_int8.tflite"
        packed = packed_size(replace(quantized, statistics=None), max=True)
        say(what="int8", model=name, bytes=plain.stat().st_size, packed=packed,
            tflite=reference.stat().st_size if reference.exists() else None,
            **judge.score(quantized))  # fmt: skip
        tried = list(falling(worked(model, learn), model, learn, packed))
        passed = [entry for entry in tried if entry[1] <= MOST]
        place = len(passed) - 1  # the ladder ends behind the first that does not
        for i in range(max(place - 1, 0), len(tried)):
            n_bytes, changing, found = tried[i]
            result = judge.score(found)
            say(what="small", model=name, bytes=n_bytes, chosen=i == place, expected=changing,
                significant=bool(result["ci95"] and result["ci95"][0] > 0), **result)  # fmt: skip


def falling(work: Any, model: Any, learn: Any, n_bytes: float) -> Iterator[tuple[int, float, Any]]:
    """Yield smaller and smaller files, with what they change of learn, to the first above MOST.

    The first steps are made without letting layers make up for those before them, which is
    faster: that changes more, so no file that passes is missed.
    """
    import qtool
    from qtool.formats import packed_size

    before, followed = logits(model, learn), False
    while True:
        wanted = n_bytes * STEP
        try:
            found = replace(work.at_size(wanted, max=True, follow=followed), statistics=None)
        except qtool.errors.QtoolError:
            return
        changing = expected(before, logits(found, learn))
        if not followed and changing > MOST / 2:
            followed = True
            continue
        n_bytes = packed_size(found, max=True)
        yield n_bytes, changing, found
        if changing > MOST:
            return


def logits(model: Any, data: Any) -> Any:
    """Return the outputs of all samples, (N, classes), as logs of probabilities."""
    from qtool.runtime.ort import OrtSession

    session, name = OrtSession(model), model.outputs()[0].name
    found = np.stack([session.run(data[i].feeds)[name].ravel() for i in range(len(data))])
    found = found.astype(np.float64)
    probable = np.all(found >= 0) and np.allclose(found.sum(1), 1, atol=1e-3)
    return np.log(np.maximum(found, 1e-12)) if probable else found


def expected(before: Any, after: Any) -> float:
    """Return the % of predictions that change, expected for noise as large as what is seen.

    The margin of the first class over each other one, against the noise of this difference, its
    root mean square over the samples: smoother than counting what changed of a few samples.
    """
    first = before.argmax(1)[:, None]
    margin = np.take_along_axis(before, first, 1) - before
    np.put_along_axis(margin, first, np.inf, 1)
    moved = np.take_along_axis(after, first, 1) - after - np.where(np.isfinite(margin), margin, 0)
    np.put_along_axis(moved, first, 0, 1)
    noise = np.sqrt((moved**2).sum() / (moved.size - len(moved)))
    nearest = margin.min(1) / max(noise, 1e-30)
    return 100 * float(np.mean([erfc(x / 2**0.5) / 2 for x in nearest]))


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
