#!/usr/bin/env python3
"""Packs models and measures size and speed, beside zip, xz and zstd on the same bytes.

    python scripts/bench_pack.py q.onnx other.onnx     # sizes, times of pack, unpack and load
    python scripts/bench_pack.py --max q.onnx          # and the size with --max
    python scripts/bench_pack.py --codecs              # symbols a second of each codec

One JSON line per model or codec on standard output. `entropy_bytes` is the order-0 entropy of all
tensors, each byte of their elements for itself, without tables, names and graph; `limit_bytes` is
1 % and 3 KB above. `open_ratio` is the time of opening the packed file in the native runtime by
that of opening the .onnx, in the same run, both warm; `first_run_ratio` has the preparation for the
first run in it. Seconds are of the processor, one thread. zstd is there when its program is.
"""

from __future__ import annotations

import argparse
import json
import lzma
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from qtool import _native, codecs, formats
from qtool.codecs.streams import as_bytes, bytes_of, item_bytes
from qtool.errors import QtoolError
from qtool.formats import tensors
from qtool.formats.packed import values_of
from qtool.model import Model

RUNS = 5
SYMBOLS = 10_000_000


def best(run: Callable[[], object], runs: int = RUNS) -> float:
    """Return the least seconds that the processor worked, of some runs of one thread."""
    times = []
    for _ in range(runs):
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return min(times)


def entropy_bytes(model: Model) -> int:
    """Return the order-0 entropy of all tensors, each byte of their elements for itself."""
    total = 0.0

    def add(tensor: ir.TensorProtocol) -> None:
        nonlocal total
        if tensor.dtype == ir.DataType.STRING or tensor.size == 0:
            return
        values = values_of(tensor)
        for plane in bytes_of(values).reshape(-1, item_bytes(values.dtype)).T:
            counts = np.bincount(plane)
            counts = counts[counts > 0]
            total += float((counts * np.log2(counts.sum() / counts)).sum()) / 8

    tensors.replace_tensors(model.ir, add)
    return int(total)


def zstd(data: bytes) -> int | None:
    """Return the bytes that zstd -19 makes of data."""
    if shutil.which("zstd") is None:
        return None
    command = ["zstd", "-19", "-c", "-q"]
    return len(subprocess.run(command, input=data, capture_output=True, check=True).stdout)


def opened(path: Path, run: bool) -> float:
    """Return the seconds of opening a model, if asked for also of preparing its first run."""
    from qtool.runtime.native import Session

    start = time.process_time()
    session = Session(path)
    if not run:
        return time.process_time() - start
    feeds = {
        spec.name: np.zeros([d if isinstance(d, int) else 1 for d in spec.shape or ()], spec.dtype)
        for spec in session.get_inputs()
    }
    session.run(None, feeds)
    first = time.process_time()
    session.run(None, feeds)
    return 2 * first - time.process_time() - start


def opening(plain: Path, packed: Path) -> dict[str, float]:
    """Return times and ratios of opening two files of a model, one after the other; {} if none."""
    found: dict[str, float] = {}
    try:
        for name, run in (("open", False), ("first_run", True)):
            pairs = [(opened(plain, run), opened(packed, run)) for _ in range(RUNS)]
            before, after = (min(times) for times in zip(*pairs, strict=True))
            found[f"{name}_ms"] = round(before * 1e3, 2)
            found[f"packed_{name}_ms"] = round(after * 1e3, 2)
            found[f"{name}_ratio"] = round(after / before, 2)
    except (QtoolError, TypeError):  # it cannot run the model, or the input's shape is not known
        pass
    return found


def measure(path: Path, slow: bool) -> dict[str, Any]:
    """Return the figures of one model."""
    model, plain = formats.load(path), path.read_bytes()
    with tempfile.TemporaryDirectory() as name:
        packed, again = Path(name) / "packed.qtm", Path(name) / "plain.onnx"
        pack_s = best(lambda: formats.pack(model, packed, threads=1), 2)
        unpack_s = best(lambda: formats.save(formats.load(packed), again), 2)
        size, bound = packed.stat().st_size, entropy_bytes(model)
        times = opening(again, packed)
    others = {
        "zip_bytes": len(zlib.compress(plain, 9)),
        "xz_bytes": len(lzma.compress(plain, preset=9 | lzma.PRESET_EXTREME)),
        "zstd_19_bytes": zstd(plain),
    }
    limit = int(1.01 * bound) + 3072
    return {
        "model": path.stem, "packed_bytes": size,
        **({"max_bytes": formats.packed_size(model, max=True)} if slow else {}),
        "onnx_bytes": len(plain), **others, "entropy_bytes": bound, "limit_bytes": limit,
        "smallest": all(size < other for other in others.values() if other),
        "within": size <= limit,
        "pack_s": round(pack_s, 2), "unpack_s": round(unpack_s, 2), **times,
    }  # fmt: skip


def speeds() -> Iterator[dict[str, Any]]:
    """Yield millions of symbols a second of the entropy coders, on int8 weights, one thread."""
    rng = np.random.default_rng(0)
    values = np.rint(rng.normal(0, 30, SYMBOLS)).clip(-127, 127).astype(np.int8)
    for name in ("huffman", "rans", "arith"):
        part = values if name != "arith" else values[: SYMBOLS // 20]
        data, links = codecs.encode(part, [name])
        encode_s = best(lambda: codecs.encode(part, [name]), 3)  # noqa: B023
        line = {"codec": name, "bytes": len(data), "encode_msymbols": part.size / encode_s / 1e6}
        isas = [isa for isa, there in _native.isas().items() if there] if name == "rans" else [""]
        for isa in isas:

            def decode() -> object:
                return codecs.decode(memoryview(data), links, part.dtype, part.shape, isa=isa)  # noqa: B023

            rate = part.size / best(decode) / 1e6
            line[f"decode_msymbols{'_' + isa if isa else ''}"] = rate
        yield {key: round(v, 1) if isinstance(v, float) else v for key, v in line.items()}
    coded = as_bytes(zlib.compress(values[: SYMBOLS // 10].tobytes(), 6))
    rate = SYMBOLS / 10 / best(lambda: zlib.decompress(coded)) / 1e6
    yield {"codec": "zlib", "bytes": 10 * coded.size, "decode_msymbols": round(rate, 1)}


def main() -> None:
    """Measure what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", type=Path)
    parser.add_argument("--codecs", action="store_true", help="measure the codecs' speeds")
    parser.add_argument("--max", action="store_true", help="the size with --max, too")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for path in options.models:
        print(json.dumps(measure(path, options.max)), flush=True)
    for line in speeds() if options.codecs else ():
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    sys.exit(main())
