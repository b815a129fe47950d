"""manifest.json of a .qtm <-> Manifest: strict types, limits, no trust."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import onnx_ir as ir

from qtool import codecs
from qtool.errors import FormatError
from qtool.formats.quoted import quoted
from qtool.formats.tensors import n_bytes
from qtool.model import Json, Statistics, Step

PLAIN, PACKED_2, PACKED = VERSIONS = (1, 2, 3)
MAX_RANK = 32  # what numpy 1 can have
MAX_BYTES = 1 << 50
CRC_DIGITS = 8
SOURCES = ("samples", "random", "synthetic")  # of statistics


@dataclass
class Entry:
    """One row of the tensor table; offset is in tensors.bin, length that of the stored bytes."""

    name: str
    dtype: ir.DataType
    shape: tuple[int, ...]
    codecs: Sequence[Mapping[str, Json]]
    offset: int
    length: int
    crc: int = 0

    def to_json(self) -> dict[str, Json]:
        """Return the row as a JSON object."""
        return {
            "name": self.name,
            "dtype": self.dtype.name.lower(),
            "shape": list(self.shape),
            "codecs": [dict(link) for link in self.codecs],
            "offset": self.offset,
            "length": self.length,
            "crc32": f"{self.crc:08x}",
        }


@dataclass
class Manifest:
    """What manifest.json says. members maps a member's name to its size and crc32."""

    producer: str
    source: str | None
    history: tuple[Step, ...]
    preprocess: Mapping[str, Json] | None
    statistics: Statistics | None  # without its tables, which statistics.bin has
    members: dict[str, tuple[int, int]]
    tensors: list[Entry] = field(default_factory=list)
    version: int = PLAIN  # the others have their table beside the graph

    def dumps(self) -> bytes:
        """Return the JSON text; its length does not depend on the checksums."""
        head: dict[str, Json] = {
            "format": "qtm", "version": self.version, "producer": self.producer
        }  # fmt: skip
        if self.version == PACKED:
            return f"{{{_lines(head)}}}\n".encode()
        members = {n: {"size": s, "crc32": f"{c:08x}"} for n, (s, c) in self.members.items()}
        text = _lines({**head, **self._details(), "members": members})
        table = ",\n".join(_compact(entry.to_json()) for entry in self.tensors)
        return f'{{{text},\n"tensors":[{table}]}}\n'.encode()

    def dumps_details(self) -> bytes:
        """Return what packed.bin has as JSON text: what is known about the model."""
        return f"{{{_lines(self._details())}}}\n".encode()

    def _details(self) -> dict[str, Json]:
        return {
            "source": self.source,
            "history": [step.to_json() for step in self.history],
            "preprocess": None if self.preprocess is None else dict(self.preprocess),
            "statistics": None if self.statistics is None else _statistics(self.statistics),
        }


def _lines(values: Mapping[str, Json]) -> str:
    return ",\n".join(f'"{key}":{_compact(value)}' for key, value in values.items())


def _compact(value: Json) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def loads(data: bytes, where: str) -> Manifest:
    """Return the manifest.

    Raises:
        FormatError: it is no manifest, or one of a newer qtool; where names the file.
    """
    top = Object(parse_json(data, f"{where}: manifest.json"), f"{where}: manifest.json")
    if top.get("format", str) != "qtm":
        raise top.error("'format' is not 'qtm'")
    version = top.get("version", int)
    if abs(version) >= 1 << 31:
        raise top.error("'version' is out of range")
    if version > VERSIONS[-1]:
        raise FormatError(
            f"{where}: is .qtm version {version}; this qtool reads up to {VERSIONS[-1]}: upgrade it"
        )
    if version < 1:
        raise top.error(f"'version' is {version}")
    producer = top.get("producer", str)
    if version == PACKED:
        return Manifest(producer, None, (), None, None, {}, version=version)
    members = top.get("members", dict)
    return Manifest(
        producer,
        *_read_details(top),
        {name: _member(Object(row, f"{top.where}: members")) for name, row in members.items()},
        _entries(top) if version == PLAIN else [],
        version,
    )


def with_details(manifest: Manifest, data: bytes, where: str) -> Manifest:
    """Return the manifest of a packed file with what packed.bin says about the model.

    Raises:
        FormatError: data is not what dumps_details returns; where names file and member.
    """
    source, history, preprocess, statistics = _read_details(Object(parse_json(data, where), where))
    return replace(
        manifest, source=source, history=history, preprocess=preprocess, statistics=statistics
    )


def _read_details(
    top: Object,
) -> tuple[str | None, tuple[Step, ...], Mapping[str, Json] | None, Statistics | None]:
    statistics = top.get("statistics", dict, type(None))
    return (
        top.get("source", str, type(None)),
        steps(top.get("history", list), top.where),
        top.get("preprocess", dict, type(None)),
        None if statistics is None else _read_statistics(Object(statistics, top.where)),
    )


def _entries(top: Object) -> list[Entry]:
    return [_entry(Object(row, f"{top.where}: tensors")) for row in top.get("tensors", list)]


def parse_json(data: bytes, where: str) -> Json:
    """Return the JSON value of data, which can be written again.

    Raises:
        FormatError: data is not JSON, or has NaN, infinity, half characters or deep nesting.
    """
    try:
        value = json.loads(data.decode(), parse_constant=_refuse, parse_float=_finite)
        if b"\\u" in data:
            json.dumps(value, ensure_ascii=False).encode()  # fails where half a character is
        return value
    except (ValueError, RecursionError) as error:  # Unicode errors are ValueErrors
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)[:100]
        raise FormatError(f"{where} is not JSON: {reason}") from error


def _refuse(text: str) -> None:
    raise ValueError(f"{text} is no JSON")


def _finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{text} is too large")
    return number


def steps(rows: Sequence[Json], where: str) -> tuple[Step, ...]:
    """Return a history from its JSON."""
    return tuple(_step(Object(row, f"{where}: history")) for row in rows)


def _step(row: Object) -> Step:
    decided = row.get("decided", dict) if "decided" in row.value else {}
    return Step(row.get("command", str), row.get("options", dict), row.get("version", str), decided)


def _statistics(statistics: Statistics) -> dict[str, Json]:
    return {
        "model": statistics.model,
        "source": statistics.source,
        "n_samples": statistics.n_samples,
        "shards": list(statistics.shards),
    }


def _read_statistics(row: Object) -> Statistics:
    row.where = f"{row.where}: statistics"
    shards = row.get("shards", list)
    if any(type(shard) is not str for shard in shards):
        raise row.error("'shards' is no list of texts")
    source = row.get("source", str)
    if source not in SOURCES:
        raise row.error(f"'source' is {quoted(source)}; {' or '.join(SOURCES)} is needed")
    return Statistics(row.get("model", str), source, row.size("n_samples"), tuple(shards))


def _member(row: Object) -> tuple[int, int]:
    return row.size("size"), row.crc()


def _entry(row: Object) -> Entry:
    row.where = f"{row.where}: {quoted(row.get('name', str))}"
    entry = Entry(
        row.get("name", str),
        _dtype(row),
        _shape(row),
        _codecs(row),
        row.size("offset"),
        row.size("length"),
        row.crc(),
    )
    if n_bytes(entry.dtype, entry.shape) > MAX_BYTES:
        raise row.error(f"shape {quoted(list(entry.shape))} is absurdly large")
    try:
        codecs.check(entry.codecs, entry.length, n_bytes(entry.dtype, entry.shape))
    except FormatError as error:
        raise row.error(str(error)) from error
    return entry


def _codecs(row: Object) -> list[dict[str, Json]]:
    links = [Object(link, f"{row.where}: codecs") for link in row.get("codecs", list)]
    if not links:
        raise row.error("'codecs' is empty")
    for link in links:
        link.size("id")
    for link in links[1:]:
        link.size("length")
    return [link.value for link in links]


def _dtype(row: Object) -> ir.DataType:
    name = row.get("dtype", str)
    dtype = ir.DataType.__members__.get(name.upper())
    if dtype in (None, ir.DataType.UNDEFINED, ir.DataType.STRING) or name != name.lower():
        raise row.error(f"'dtype' {quoted(name)} is unknown")
    return ir.DataType(dtype)


def _shape(row: Object) -> tuple[int, ...]:
    dims = row.get("shape", list)
    if len(dims) > MAX_RANK or any(type(d) is not int or not 0 <= d <= MAX_BYTES for d in dims):
        raise row.error(f"'shape' {quoted(dims)} is not a list of sizes")
    return tuple(dims)


class Object:
    """A JSON object whose fields are read with their types."""

    def __init__(self, value: Json, where: str) -> None:
        self.where = where
        if type(value) is not dict:
            raise self.error(f"{quoted(value)} is not an object")
        self.value: dict[str, Json] = value

    def error(self, problem: str) -> FormatError:
        """Return the error that names the object."""
        return FormatError(f"{self.where}: {problem}")

    def get(self, key: str, *types: type) -> Any:
        """Return a field of one of these exact types: true is no int."""
        if key not in self.value:
            raise self.error(f"{key!r} is missing")
        if type(self.value[key]) not in types:
            wanted = " or ".join(t.__name__ for t in types).replace("NoneType", "null")
            raise self.error(f"{key!r} is {quoted(self.value[key])}; {wanted} is needed")
        return self.value[key]

    def size(self, key: str) -> int:
        """Return a field that is a number of bytes or the like."""
        value = int(self.get(key, int))
        if not 0 <= value <= MAX_BYTES:
            raise self.error(f"{key!r} is {quoted(value)}; 0 to {MAX_BYTES} is possible")
        return value

    def crc(self) -> int:
        """Return the field crc32, 8 hexadecimal digits."""
        text = self.get("crc32", str)
        if len(text) != CRC_DIGITS or any(c not in "0123456789abcdef" for c in text):
            raise self.error(
                f"'crc32' is {quoted(text)}; {CRC_DIGITS} hexadecimal digits are needed"
            )
        return int(text, 16)
