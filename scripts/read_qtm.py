"""Read a .qtm with the standard library and numpy, as docs/qtm-format.md says; no qtool.

    python scripts/read_qtm.py model.qtm                     # what is in it
    python scripts/read_qtm.py model.qtm conv1.weight w.npy  # one tensor, as an array

An independent second reading of the format: it shares no code with qtool, and tests compare the
two. It trusts the file more than qtool does, so use it on your own files.
"""

from __future__ import annotations

import json
import sys
import zipfile
import zlib
from typing import Any

import numpy as np

# ONNX's name of an element type -> numpy's; bits where numpy has no such type of its own.
DTYPES = {
    "float": "<f4", "double": "<f8", "float16": "<f2", "complex64": "<c8", "complex128": "<c16",
    "int8": "i1", "int16": "<i2", "int32": "<i4", "int64": "<i8", "bool": "?", "uint8": "u1",
    "uint16": "<u2", "uint32": "<u4", "uint64": "<u8", "bfloat16": "<u2", "float8e4m3fn": "u1",
    "float8e4m3fnuz": "u1", "float8e5m2": "u1", "float8e5m2fnuz": "u1", "float8e8m0": "u1",
}  # fmt: skip
BITS = {"int4": 4, "uint4": 4, "float4e2m1": 4, "int2": 2, "uint2": 2,
        "float6e2m3": 6, "float6e3m2": 6}  # fmt: skip
RAW = 0  # codec


class Qtm:
    """A .qtm file: manifest (a dict), graph (ONNX bytes), tensor(name), statistics()."""

    def __init__(self, path: str) -> None:
        with zipfile.ZipFile(path) as archive:
            self._members = {name: archive.read(name) for name in archive.namelist()}
        self.manifest: dict[str, Any] = json.loads(self._members["manifest.json"])
        if self.manifest["format"] != "qtm" or self.manifest["version"] > 1:
            raise ValueError(f"{path}: no .qtm of version 1; use qtool unpack if it is packed")
        for name, member in self.manifest["members"].items():
            found = (len(self._members[name]), f"{zlib.crc32(self._members[name]):08x}")
            if found != (member["size"], member["crc32"]):
                raise ValueError(f"{path}: {name} does not belong to the manifest")
        self.graph = self._members["graph.onnx"]
        self.tensors = {row["name"]: row for row in self.manifest["tensors"]}

    def tensor(self, name: str) -> np.ndarray:
        """Return a tensor's values; types that numpy lacks come as their bits."""
        row = self.tensors[name]
        data = self._members["tensors.bin"][row["offset"] : row["offset"] + row["length"]]
        if f"{zlib.crc32(data):08x}" != row["crc32"]:
            raise ValueError(f"tensor {name} is damaged")
        if [link["id"] for link in row["codecs"]] != [RAW]:
            raise ValueError(f"tensor {name} has codecs that this reader does not know")
        if row["dtype"] in BITS:
            return unpack(data, row["dtype"], row["shape"])
        return np.frombuffer(data, DTYPES[row["dtype"]]).reshape(row["shape"])

    def statistics(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Return the tables of statistics.bin: histograms, grams and batch_norm, by tensor."""
        reader = Reader(self._members.get("statistics.bin", b"\0\0\0"))
        counts = [reader.number() for _ in range(3)]
        tables = (reader.histogram, reader.gram, reader.batch_norm)
        names = ("histograms", "grams", "batch_norm")
        return {
            name: {reader.text(): table() for _ in range(count)}
            for name, table, count in zip(names, tables, counts, strict=True)
        }


def unpack(data: bytes, dtype: str, shape: list[int]) -> np.ndarray:
    """Return packed elements, the first in the lowest bits, one a byte; signed ones extended."""
    bits = BITS[dtype]
    flat = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")
    size = int(np.prod(shape, dtype=np.int64))
    digits = flat[: size * bits].reshape(size, bits)
    values = (digits << np.arange(bits, dtype=np.uint8)).sum(axis=1, dtype=np.uint8)
    if dtype.startswith("int"):
        values = ((values << (8 - bits)).view(np.int8)) >> (8 - bits)
    return values.reshape(shape)


class Reader:
    """Reads statistics.bin."""

    def __init__(self, data: bytes) -> None:
        self.data, self.position = data, 0

    def take(self, length: int) -> bytes:
        """Return the next bytes."""
        self.position += length
        return self.data[self.position - length : self.position]

    def number(self) -> int:
        """Return a LEB128 number."""
        result, shift = 0, 0
        while True:
            (byte,) = self.take(1)
            result |= (byte & 127) << shift
            if byte < 128:
                return result
            shift += 7

    def signed(self) -> int:
        """Return a zigzag number: 0, -1, 1, -2, 2 are written as 0, 1, 2, 3, 4."""
        value = self.number()
        return value // 2 if value % 2 == 0 else -(value // 2) - 1

    def text(self) -> str:
        """Return a text."""
        return self.take(self.number()).decode()

    def array(self, dtype: str, count: int) -> np.ndarray:
        """Return an array."""
        return np.frombuffer(self.take(count * np.dtype(dtype).itemsize), dtype)

    def histogram(self) -> dict[str, Any]:
        """Return what one pass over the samples said about a tensor."""
        minimum, maximum = (float(x) for x in self.array("<f4", 2))
        count, n_zeros = self.number(), self.number()
        exponent, first, n_filled = self.signed(), self.signed(), self.number()
        gaps = [self.number() for _ in range(n_filled)]
        counts: list[int] = []
        for gap in gaps:
            counts += [0] * gap + [self.number()]
        return {
            "minimum": minimum, "maximum": maximum, "count": count, "n_zeros": n_zeros,
            "exponent": exponent, "first": first, "counts": counts,
        }  # fmt: skip

    def gram(self) -> dict[str, Any]:
        """Return a layer's sum of x x^T, as pairs of 64-bit words."""
        count, groups, size, exponent = self.number(), self.number(), self.number(), self.signed()
        self.take(-self.position % 8)
        pairs = size * (size + 1) // 2
        values = self.array("<u8", groups * pairs * 2).reshape(groups, pairs, 2)
        return {"count": count, "groups": groups, "size": size, "exponent": exponent,
                "values": values}  # fmt: skip

    def batch_norm(self) -> dict[str, Any]:
        """Return mean and standard deviation by channel."""
        channels = self.number()
        return {"mean": self.array("<f4", channels), "std": self.array("<f4", channels)}


def main(arguments: list[str]) -> None:
    """Print what a file holds, or save one of its tensors."""
    if len(arguments) not in (1, 3):
        sys.exit(__doc__)
    model = Qtm(arguments[0])
    if len(arguments) == 3:
        np.save(arguments[2], model.tensor(arguments[1]))
        return
    print(json.dumps({k: v for k, v in model.manifest.items() if k != "tensors"}, indent=2))
    for row in model.manifest["tensors"]:
        print(f"{row['name']}: {row['dtype']}{row['shape']}, {row['length']} bytes")
    for kind, table in model.statistics().items():
        print(f"{kind}: {', '.join(table) or 'none'}")


if __name__ == "__main__":
    main(sys.argv[1:])
