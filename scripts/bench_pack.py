#!/usr/bin/env python3
"""Packs models and measures size and speed, beside zip, xz and zstd on the same bytes.

    python scripts/bench_pack.py q.onnx other.onnx     # sizes, times of pack, unpack and load
    python scripts/bench_pack.py --codecs              # symbols a second of each codec

One JSON line per model or codec on standard output. `entropy_bytes` is the order-0 entropy of the
int8 and shared weights plus the bytes of everything else as it is; `excess` is what the file has
above that, in percent. zstd is there when its program is.
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
from qtool.codecs.streams import as_bytes, bytes_of
from qtool.errors import QtoolError
from qtool.formats import tensors
from qtool.formats.packed import values_of
from qtool.model import Model

RUNS = 5
SYMBOLS = 10_000_000
LOSSLESS_BYTES = 1024  # of tensors whose entropy counts; smaller ones count as they are


def best(run: Callable[[], object], runs: int = RUNS) -> float:
    """Return the least seconds that the processor worked, of some runs of one thread."""
    times = []
    for _ in range(runs):
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return min(times)


def entropy_bytes(model: Model) -> int:
    """Return the order-0 entropy of the weights, and the other tensors as they are."""
    total = 0.0

    def add(tensor: ir.TensorProtocol) -> None:
        nonlocal total
        if tensor.dtype == ir.DataType.STRING:
            return
        values = values_of(tensor)
        data = bytes_of(values)
        distinct = None
        if data.size >= LOSSLESS_BYTES and len(tensor.shape) > 1:
            units = data if values.dtype.itemsize == 1 else data.view(f"<u{values.dtype.itemsize}")
            _, distinct = np.unique(units, return_counts=True)
        if distinct is None or len(distinct) > 256:
            total += data.size
            return
        bits = (distinct * np.log2(distinct.sum() / distinct)).sum()
        total += bits / 8 + (len(distinct) * values.dtype.itemsize if values.itemsize > 1 else 0)

    tensors.replace_tensors(model.ir, add)
    return int(total)


def zstd(data: bytes) -> int | None:
    """Return the bytes that zstd -19 makes of data."""
    if shutil.which("zstd") is None:
        return None
    command = ["zstd", "-19", "-c", "-q"]
    return len(subprocess.run(command, input=data, capture_output=True, check=True).stdout)


def load_ms(path: Path) -> float | None:
    """Return the milliseconds of opening a model in the native runtime; None if it cannot."""
    from qtool.runtime.native import Session

    try:
        return round(best(lambda: Session(path)) * 1e3, 1)
    except QtoolError:
        return None


def measure(path: Path, slow: bool) -> dict[str, Any]:
    """Return the figures of one model."""
    model, plain = formats.load(path), path.read_bytes()
    with tempfile.TemporaryDirectory() as name:
        packed, again = Path(name) / "packed.qtm", Path(name) / "plain.onnx"
        pack_s = best(lambda: formats.pack(model, packed, max=slow, threads=1), 2)
        unpack_s = best(lambda: formats.save(formats.load(packed), again), 2)
        size, bound = packed.stat().st_size, entropy_bytes(model)
        loads = {"load_ms": load_ms(path), "packed_load_ms": load_ms(packed)}
    return {
        "model": path.stem, "packed_bytes": size, "onnx_bytes": len(plain),
        "zip_bytes": len(zlib.compress(plain, 9)), "xz_bytes": len(lzma.compress(plain, preset=9)),
        "zstd_19_bytes": zstd(plain), "entropy_bytes": bound,
        "excess": round(100 * (size / bound - 1), 2), "pack_s": round(pack_s, 2),
        "unpack_s": round(unpack_s, 2), **loads,
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
    parser.add_argument("--max", action="store_true", help="pack with --max")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for path in options.models:
        print(json.dumps(measure(path, options.max)), flush=True)
    for line in speeds() if options.codecs else ():
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    sys.exit(main())
