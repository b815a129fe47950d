from __future__ import annotations

import io
import os
import zipfile

import pytest

from qtool.errors import FormatError
from qtool.formats import container, mapping

NAMES = ("a.json", "b.bin", "c.bin")


def stored(name: str, content: bytes) -> tuple[container.Member, list[bytes]]:
    import zlib

    size = len(content)
    return container.Member(name, container.STORED, size, size, zlib.crc32(content)), [content]


def archive(*members: tuple[container.Member, list[bytes]]) -> bytes:
    file = io.BytesIO()
    container.write(file, members)
    return file.getvalue()


def test_members_come_back() -> None:
    data = memoryview(archive(container.pack("a.json", b"text " * 50), stored("b.bin", b"bytes")))

    members = container.read(data, "m", NAMES)

    assert container.content(data, "m", members["a.json"], 999) == b"text " * 50
    assert container.content(data, "m", members["b.bin"], 999) == b"bytes"


def test_what_does_not_get_smaller_is_stored() -> None:
    content = bytes(range(256))

    member, data = container.pack("a.json", content)

    assert (member.method, data) == (container.STORED, [content])


def test_what_would_take_long_to_deflate_is_stored() -> None:
    member, _ = container.pack("a.json", bytes(container.MAX_DEFLATED_BYTES + 1))

    assert member.method == container.STORED


def test_a_content_over_the_limit_is_not_inflated() -> None:
    data = memoryview(archive(container.pack("a.json", bytes(5000))))
    member = container.read(data, "m", NAMES)["a.json"]

    with pytest.raises(FormatError, match="says it has 5000 bytes; at most 4999 are read"):
        container.content(data, "m", member, 4999)


def test_every_byte_but_the_data_is_checked() -> None:
    good = archive(container.pack("a.json", b"text " * 50), stored("b.bin", b"bytes"))
    members = container.read(memoryview(good), "m", NAMES).values()
    data = {i for m in members for i in range(m.start, m.start + m.length)}

    for position in set(range(len(good))) - data:
        bad = bytearray(good)
        bad[position] ^= 0x10
        with pytest.raises(FormatError):
            container.read(memoryview(bytes(bad)), "m", NAMES)


class Hole:
    """Stands for many zero bytes that a sparse file need not have."""

    def __init__(self, size: int) -> None:
        self.size = size


class SparseFile(io.FileIO):
    def write(self, data: object) -> int:
        return self.seek(data.size, os.SEEK_CUR) if isinstance(data, Hole) else super().write(data)


def test_a_member_over_4_gb_can_be_found(tmp_path) -> None:
    size = (5 << 30) + 64
    large = container.Member("b.bin", container.STORED, size, size, 0)
    with SparseFile(tmp_path / "m", "wb") as file:
        container.write(
            file, [stored("a.json", b"{}"), (large, [Hole(size)]), stored("c.bin", b"c")]
        )

    with open(tmp_path / "m", "rb") as file:
        data = mapping.map_file(file)
    members = container.read(data, "m", NAMES)

    assert members["b.bin"].size == size
    assert members["c.bin"].offset > size
    assert container.content(data, "m", members["c.bin"], 9) == b"c"
    with zipfile.ZipFile(tmp_path / "m") as other:
        assert other.getinfo("b.bin").file_size == size
        assert other.read("c.bin") == b"c"
