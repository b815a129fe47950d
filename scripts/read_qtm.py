"""Read a .qtm with the standard library and numpy, as docs/qtm-format.md says; no qtool.

Versions 1 to 3; packed tensors are decoded by read_codecs.py, slowly.

    python scripts/read_qtm.py model.qtm                     # what is in it
    python scripts/read_qtm.py model.qtm conv1.weight w.npy  # one tensor, as an array

An independent second reading of the format: it shares no code with qtool, and tests compare the
two. It trusts the file more than qtool does, so use it on your own files.
"""

from __future__ import annotations

import json
import struct
import sys
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
import read_codecs

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
NUMBERS = (  # of element types in a TensorProto
    "undefined", "float", "uint8", "int8", "uint16", "int16", "int32", "int64", "string", "bool",
    "float16", "double", "uint32", "uint64", "complex64", "complex128", "bfloat16", "float8e4m3fn",
    "float8e4m3fnuz", "float8e5m2", "float8e5m2fnuz", "uint4", "int4", "float4e2m1", "float8e8m0",
    "uint2", "int2", "float6e2m3", "float6e3m2",
)  # fmt: skip
EXTERNAL = 1  # data_location
ALIGNMENT, MAPPED_BYTES = 64, 4096  # of rows that are raw


class Qtm:
    """A .qtm file: manifest (a dict), graph (ONNX bytes), tensor(name), statistics()."""

    def __init__(self, path: str) -> None:
        with zipfile.ZipFile(path) as archive:
            self._members = {name: archive.read(name) for name in archive.namelist()}
        self.manifest: dict[str, Any] = json.loads(self._members["manifest.json"])
        if self.manifest["format"] != "qtm" or self.manifest["version"] > 3:
            raise ValueError(f"{path}: no .qtm of version 1 to 3")
        for name, member in self.manifest.get("members", {}).items():
            found = (len(self._members[name]), f"{zlib.crc32(self._members[name]):08x}")
            if found != (member["size"], member["crc32"]):
                raise ValueError(f"{path}: {name} does not belong to the manifest")
        self._shared: list[bytes] = []
        self._rows: list[dict[str, Any]] = []
        read = {1: self._version_1, 2: self._version_2, 3: self._version_3}
        self.tensors: dict[str, dict[str, Any]] = read[self.manifest["version"]]()

    def tensor(self, name: str) -> np.ndarray:
        """Return a tensor's values; types that numpy lacks come as their bits."""
        row = self.tensors[name]
        n = (int(np.prod(row["shape"], dtype=np.int64)) * bits_of(row["dtype"]) + 7) // 8
        codec, stored = self._stored(row)
        data = read_codecs.decode(codec, stored, n, self._shared, self._row)
        if row["dtype"] in BITS:
            return unpack(data, row["dtype"], row["shape"])
        return np.frombuffer(data, DTYPES[row["dtype"]]).reshape(row["shape"])

    def _row(self, number: int) -> tuple[int, bytes]:
        return self._stored(self._rows[number])

    def _stored(self, row: dict[str, Any]) -> tuple[int, bytes]:
        """Return codec and bytes of a row, its checksum checked."""
        data = self._bytes[row["offset"] : row["offset"] + row["length"]]
        if f"{zlib.crc32(data):08x}" != row["crc32"]:
            raise ValueError(f"tensor {row.get('name')} is damaged")
        return row["codecs"][0]["id"], data

    def _version_1(self) -> dict[str, dict[str, Any]]:
        self.graph, self._bytes = self._members["graph.onnx"], self._members["tensors.bin"]
        return {row["name"]: row for row in self.manifest["tensors"]}

    def _version_2(self) -> dict[str, dict[str, Any]]:
        coded = read_codecs.Reader(self._members["graph.bin"])
        codec, size = coded.byte(), coded.number()
        content = read_codecs.Reader(read_codecs.decode(codec, coded.rest(), size, []))
        self._shared = [content.take(content.number()) for _ in range(content.number())]
        codecs, lengths = self._table(content)
        self.graph, self._bytes = b"", self._members["tensors.bin"]
        self._place(codecs, lengths, content.take(4 * len(codecs)), 0)
        self.graph = content.rest()
        apart = list(stored_apart(self.graph))
        return {t["name"]: t | self._rows[t.pop("offset")] for t in apart}

    def _version_3(self) -> dict[str, dict[str, Any]]:
        self._bytes = self._members["packed.bin"]
        head = read_codecs.Reader(self._bytes)
        codec, size, n_noise, n_coded = head.byte(), head.number(), head.number(), head.number()
        others = [self._members.get(name, b"") for name in ("manifest.json", "statistics.bin")]
        if head.take(8) != struct.pack("<2I", *map(zlib.crc32, others)):
            raise ValueError("packed.bin does not belong to the other members")
        noise = read_codecs.Reader(head.take(n_noise))
        content = read_codecs.Reader(read_codecs.decode(codec, head.take(n_coded), size, []))
        if zlib.crc32(self._bytes[: head.at]) != struct.unpack("<I", head.take(4))[0]:
            raise ValueError("the head of packed.bin is damaged")
        self.manifest |= json.loads(content.take(content.number()))
        self._shared = [noise.take(size) for size in numbers(content, content.number())]
        codecs, lengths = self._table(content)
        self._place(codecs, lengths, noise.rest(), head.at)
        wanted, after = [], 0
        for step in numbers(content, content.number()):
            wanted.append(step - 1 if step else after)
            after = max(after, wanted[-1] + 1)
        self.graph = content.rest()
        apart = list(stored_apart(self.graph))
        return {t["name"]: t | self._rows[r] for t, r in zip(apart, wanted, strict=True)}

    def _table(self, content: read_codecs.Reader) -> tuple[list[int], list[int]]:
        codecs = list(content.take(content.number()))
        return codecs, numbers(content, len(codecs))

    def _place(self, codecs: list[int], lengths: list[int], crcs: bytes, end: int) -> None:
        values = struct.unpack(f"<{len(codecs)}I", crcs)
        for codec, length, crc in zip(codecs, lengths, values, strict=True):
            if codec == RAW and length >= MAPPED_BYTES:
                end += -end % ALIGNMENT
            row = {"codecs": [{"id": codec}], "offset": end, "length": length}
            self._rows.append(row | {"crc32": f"{crc:08x}"})
            end += length

    def statistics(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Return the tables of statistics.bin: histograms, grams and batch_norm, by tensor."""
        reader = Statistics(self._members.get("statistics.bin", b"\0\0\0"))
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


def bits_of(dtype: str) -> int:
    """Return the bits of an element."""
    return BITS.get(dtype) or 8 * np.dtype(DTYPES[dtype]).itemsize


def numbers(reader: read_codecs.Reader, n: int) -> list[int]:
    """Return n numbers."""
    return [reader.number() for _ in range(n)]


def fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """Yield number and value of the fields of a protobuf message."""
    reader = read_codecs.Reader(message)
    while reader.at < len(message):
        key = reader.number()
        kind = key & 7
        fixed = {1: 8, 5: 4}
        if kind == 0:
            yield key >> 3, reader.number()
        else:
            yield key >> 3, reader.take(fixed[kind] if kind in fixed else reader.number())


def stored_apart(model: bytes) -> Iterator[dict[str, Any]]:
    """Yield name, dtype and shape of a model's tensors that are stored apart, in their order."""
    known = list(fields(model))
    for number, value in known:
        if number == 7:  # ModelProto.graph
            yield from of_graph(value, nodes=1)
    for number, value in known:
        if number == 25:  # ModelProto.functions
            yield from of_graph(value, nodes=7)


def of_graph(graph: bytes, nodes: int) -> Iterator[dict[str, Any]]:
    """Yield those of a graph, or of a function, whose nodes have another number."""
    known = list(fields(graph))
    for number, value in known:
        if number == 5 and nodes == 1:  # GraphProto.initializer
            yield from of_tensor(value)
    for number, value in known:
        if number != nodes:
            continue
        for attribute in (v for n, v in fields(value) if n == 5):  # NodeProto.attribute
            for kind, part in fields(attribute):
                if kind in (5, 10):  # t, tensors
                    yield from of_tensor(part)
        for attribute in (v for n, v in fields(value) if n == 5):
            for kind, part in fields(attribute):
                if kind in (6, 11):  # g, graphs
                    yield from of_graph(part, nodes=1)


def of_tensor(tensor: bytes) -> Iterator[dict[str, Any]]:
    """Yield a tensor if it is stored apart."""
    known = list(fields(tensor))
    if (14, EXTERNAL) not in known:
        return
    shape: list[int] = []
    for number, value in known:
        if number == 1:
            shape += [value] if isinstance(value, int) else numbers_in(value)
    single = dict(known)
    entries = [dict(fields(value)) for number, value in known if number == 13]
    places = {entry[1]: int(entry[2]) for entry in entries if entry[1] == b"offset"}
    yield {
        "name": single.get(8, b"").decode(), "dtype": NUMBERS[single[2]], "shape": shape,
        "offset": places.get(b"offset", 0),
    }  # fmt: skip


def numbers_in(packed: bytes) -> list[int]:
    """Return the numbers of a packed field."""
    reader = read_codecs.Reader(packed)
    found = []
    while reader.at < len(packed):
        found.append(reader.number())
    return found


class Statistics(read_codecs.Reader):
    """Reads statistics.bin."""

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
        self.take(-self.at % 8)
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
    for name, row in model.tensors.items():
        print(f"{name}: {row['dtype']}{row['shape']}, {row['length']} bytes")
    for kind, table in model.statistics().items():
        print(f"{kind}: {', '.join(table) or 'none'}")


if __name__ == "__main__":
    main(sys.argv[1:])
