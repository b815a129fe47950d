"""Ways to damage bytes, ONNX models and .qtm files: functions of random numbers and bytes."""

from __future__ import annotations

import io
import json
import random
import struct
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import onnx

from qtool.errors import QtoolError
from qtool.formats import container, packed_graph, qtm_file

INTERESTING = (0, 1, 127, 128, 255, 256, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
JSON_VALUES = (
    b"null", b"true", b"-1", b"1.5", b"[]", b"{}", b'""', b"1e999", b"99999999999999999999", b"NaN",
    b'"\\ud800"', b"[[[[[[]]]]]]", b"9" * 5000,
)  # fmt: skip
TEXTS = ("", "x", "y", "w", "h", "\0", "a" * 300, "tensors.bin", "../w", "-1", "99")

Rng = random.Random
Mutation = Callable[[Rng, bytes], bytes]


def flip(rng: Rng, data: bytes) -> bytes:
    """Change one bit, up to eight times."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 8)):
        if changed:
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def set_number(rng: Rng, data: bytes) -> bytes:
    """Put an extreme number of 1 to 8 bytes somewhere."""
    size = rng.choice((1, 2, 4, 8))
    number = rng.choice(INTERESTING) % 256**size
    at = rng.randrange(len(data) + 1)
    return data[:at] + number.to_bytes(size, "little") + data[at + size :]


def cut(rng: Rng, data: bytes) -> bytes:
    """Leave out a piece, often the end."""
    at = rng.randrange(len(data) + 1)
    length = rng.choice((1, 4, 64, len(data)))
    return data[:at] + data[at + length :]


def repeat(rng: Rng, data: bytes) -> bytes:
    """Copy a piece to somewhere else."""
    at, to = rng.randrange(len(data) + 1), rng.randrange(len(data) + 1)
    piece = data[at : at + rng.choice((1, 8, 64, 512))]
    return data[:to] + piece * rng.choice((1, 1, 2, 50)) + data[to:]


def insert(rng: Rng, data: bytes) -> bytes:
    """Put random bytes somewhere."""
    at = rng.randrange(len(data) + 1)
    return data[:at] + rng.randbytes(rng.choice((1, 2, 4, 30))) + data[at:]


def splice(rng: Rng, data: bytes) -> bytes:
    """Continue with a piece of what came before."""
    other = data[rng.randrange(len(data) + 1) :] or b"?"
    return data[: rng.randrange(len(data) + 1)] + other[rng.randrange(len(other)) :]


def exchange_json(rng: Rng, data: bytes) -> bytes:
    """Put another value behind a colon, a comma or a bracket."""
    places = [i + 1 for i, byte in enumerate(data) if byte in b":,["]
    if not places:
        return insert(rng, data)
    at = rng.choice(places)
    stop = at
    while stop < len(data) and data[stop] not in b",]}\n":
        stop += 1
    return data[:at] + rng.choice(JSON_VALUES) + data[stop:]


def edit_proto(rng: Rng, data: bytes) -> bytes:
    """Change one field of one message of an ONNX model, and keep the rest right."""
    proto = onnx.ModelProto()
    with suppress(Exception):
        proto.ParseFromString(data)
    message: Any = proto
    for _ in range(rng.randint(0, 8)):
        inner = [
            one
            for field, value in message.ListFields()
            if field.type == field.TYPE_MESSAGE
            for one in ([value] if hasattr(value, "ListFields") else value)
        ]
        if not inner:
            break
        message = rng.choice(inner)
    with suppress(TypeError, ValueError, AttributeError):
        _edit_message(rng, message)
    return bytes(proto.SerializePartialToString())


def _edit_message(rng: Rng, message: Any) -> None:
    field = rng.choice(message.DESCRIPTOR.fields)
    value = getattr(message, field.name)
    if rng.random() < 0.2:
        message.ClearField(field.name)
    elif hasattr(value, "append") or hasattr(value, "add"):
        _edit_list(rng, field, value)
    elif field.type == field.TYPE_MESSAGE:
        value.SetInParent()
    else:
        setattr(message, field.name, _scalar(rng, field, value))


def _edit_list(rng: Rng, field: Any, value: Any) -> None:
    if len(value) and rng.random() < 0.5:
        del value[rng.randrange(len(value))]
    elif field.type == field.TYPE_MESSAGE:
        (value.append(rng.choice(value)) if len(value) and rng.random() < 0.7 else value.add())
    elif len(value) and rng.random() < 0.7:
        value[rng.randrange(len(value))] = _scalar(rng, field, value[0])
    else:
        value.append(_scalar(rng, field, value[0] if len(value) else None))


def _scalar(rng: Rng, field: Any, old: Any) -> Any:
    if field.type == field.TYPE_STRING:
        return rng.choice((*TEXTS, str(old)[1:]))
    if field.type == field.TYPE_BYTES:
        return rng.choice((b"", b"\xff", bytes(old or b"")[1:], bytes(old or b"") + b"x"))
    if field.type in (field.TYPE_FLOAT, field.TYPE_DOUBLE):
        return rng.choice((0.0, -1.0, float("nan"), float("inf")))
    number = rng.choice((*INTERESTING, -1, -2, 1 << 62, rng.randrange(40)))
    return number if field.type == field.TYPE_INT64 else number % (1 << 31)


BYTES: tuple[Mutation, ...] = (flip, set_number, cut, repeat, insert, splice)


def mutate_bytes(rng: Rng, data: bytes) -> bytes:
    """Damage bytes anywhere."""
    return rng.choice(BYTES)(rng, data)


def mutate_onnx(rng: Rng, data: bytes) -> bytes:
    """Damage an ONNX model: its messages or its bytes."""
    return (edit_proto if rng.random() < 0.6 else mutate_bytes)(rng, data)


def mutate_qtm(rng: Rng, data: bytes) -> bytes:
    """Damage a member of a .qtm, and make sizes and checksums right again; or any bytes."""
    try:
        found = container.read(memoryview(data), "", qtm_file.MEMBERS, [qtm_file.PACKED])
        members = {
            name: bytes(container.content(memoryview(data), "", member, 1 << 20))
            for name, member in found.items()
        }
    except QtoolError:
        return mutate_bytes(rng, data)
    if not members or rng.random() < 0.25:
        return mutate_bytes(rng, data)
    name = rng.choice(list(members))
    special = {
        "manifest.json": exchange_json, "graph.onnx": edit_proto, "packed.bin": edit_packed
    }.get(name, mutate_bytes)  # fmt: skip
    mutation = special if rng.random() < 0.7 else mutate_bytes
    members[name] = mutation(rng, members[name])
    return _join(rng, members)


def edit_packed(rng: Rng, data: bytes) -> bytes:
    """Damage a part of packed.bin, and make the checksums right again."""
    try:
        head = packed_graph.loads(memoryview(data), "")
    except QtoolError:
        return mutate_bytes(rng, data)
    table, rest = head.table, data[head.length :]
    kind = rng.randrange(5)
    if kind == 0:
        start = mutate_bytes(rng, data[: head.length - 4])
        return start + struct.pack("<I", zlib.crc32(start)) + rest
    if kind == 1:
        head = replace(head, graph=edit_proto(rng, bytes(head.graph)))
    elif kind == 2:
        head = replace(head, details=exchange_json(rng, bytes(head.details)))
    elif kind == 3 and table.wanted:
        wanted = [*table.wanted]
        wanted[rng.randrange(len(wanted))] = rng.randrange(len(table.rows) + 2)
        table.wanted = wanted
    elif table.rows:
        table.place(head.length)
        row = rng.choice(table.rows)
        stored = mutate_bytes(rng, data[row.offset : row.offset + row.length])
        rest = data[head.length : row.offset] + stored + data[row.offset + row.length :]
        row.length, row.crc = len(stored), zlib.crc32(stored)
        row.codec = rng.randrange(12) if rng.random() < 0.2 else row.codec
    return packed_graph.dumps(head) + rest


def _join(rng: Rng, members: dict[str, bytes]) -> bytes:
    """Return the archive; it mostly gets the checksums that it should have."""
    if "packed.bin" in members and rng.random() < 0.9:
        _seal(members)
    elif rng.random() < 0.9:
        with suppress(ValueError, TypeError, KeyError, AttributeError, RecursionError):
            manifest = json.loads(members["manifest.json"])
            manifest["members"] = {
                name: {"size": len(content), "crc32": f"{zlib.crc32(content):08x}"}
                for name, content in members.items()
                if name != "manifest.json"
            }
            for row in manifest["tensors"]:
                stored = members["tensors.bin"][row["offset"] : row["offset"] + row["length"]]
                row["crc32"] = f"{zlib.crc32(stored):08x}"
            members["manifest.json"] = json.dumps(manifest).encode()
    if rng.random() < 0.02:
        members.pop(rng.choice(list(members)))
    file = io.BytesIO()
    container.write(file, [_stored(name, content) for name, content in members.items()])
    return file.getvalue()


def _seal(members: dict[str, bytes]) -> None:
    """Put the checksums of the other members into packed.bin."""
    data = members["packed.bin"]
    with suppress(QtoolError):
        head = packed_graph.loads(memoryview(data), "")
        crcs = [zlib.crc32(members.get(name, b"")) for name in ("manifest.json", "statistics.bin")]
        again = replace(head, manifest_crc=crcs[0], statistics_crc=crcs[1])
        members["packed.bin"] = packed_graph.dumps(again) + data[head.length :]


def _stored(name: str, content: bytes) -> tuple[container.Member, list[bytes]]:
    size = len(content)
    return container.Member(name, container.STORED, size, size, zlib.crc32(content)), [content]
