"""The ZIP file around a .qtm: a strict subset of the format, written the same way every time.

Members are stored or deflated, their sizes known before their data, one right after the other
from byte 0, and nothing but the central directory follows. docs/qtm-format.md has the tables.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

from qtool.errors import FormatError

ALIGNMENT = 64  # of the data of stored members, in the file
STORED, DEFLATED = 0, 8
DATE = 0x0021  # 1980-01-01, the oldest that ZIP can say; time 0
LOCAL = struct.Struct("<4s5H3I2H")
CENTRAL = struct.Struct("<4s6H3I5H2I")
END = struct.Struct("<4s4H2IH")
END64 = struct.Struct("<4sQ2H2I4Q")
LOCATOR64 = struct.Struct("<4sIQI")
MAX32 = 0xFFFFFFFF


@dataclass
class Member:
    """One file of the archive: size is that of its content, length that of its stored data."""

    name: str
    method: int
    size: int
    length: int
    crc: int = 0
    offset: int = 0  # of its local header
    start: int = 0  # of its data


class Writer:
    """Writes members to a seekable file, then finish() ends the archive."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.members: list[Member] = []

    def add(self, name: str, size: int, chunks: Iterable[bytes | memoryview]) -> Member:
        """Write a stored member of exactly size bytes."""
        member = Member(name, STORED, size, size, offset=self._file.tell())
        self._write_header(member)
        written = 0
        for chunk in chunks:
            member.crc = zlib.crc32(chunk, member.crc)
            self._file.write(chunk)
            written += len(chunk)
        if written != size:
            raise ValueError(f"{name}: {written} bytes were written, {size} were announced")
        self._rewrite_header(member)
        self.members.append(member)
        return member

    def replace(self, member: Member, content: bytes) -> None:
        """Overwrite the content of a member already written with one of the same size."""
        if len(content) != member.size:
            raise ValueError(f"{member.name}: {len(content)} bytes replace {member.size}")
        end = self._file.tell()
        self._file.seek(member.start)
        self._file.write(content)
        self._file.seek(end)
        member.crc = zlib.crc32(content)
        self._rewrite_header(member)

    def finish(self) -> None:
        """Write the central directory."""
        start = self._file.tell()
        for member in self.members:
            self._file.write(_central(member))
        size = self._file.tell() - start
        n = len(self.members)
        if start + size > MAX32:
            end = start + size
            self._file.write(END64.pack(b"PK\6\6", 44, 45, 45, 0, 0, n, n, size, start))
            self._file.write(LOCATOR64.pack(b"PK\6\7", 0, end, 1))
        low = (min(size, MAX32), min(start, MAX32))
        self._file.write(END.pack(b"PK\5\6", 0, 0, n, n, *low, 0))

    def _write_header(self, member: Member) -> None:
        header = _local(member)
        member.start = member.offset + len(header)
        self._file.write(header)

    def _rewrite_header(self, member: Member) -> None:
        end = self._file.tell()
        self._file.seek(member.offset)
        self._file.write(_local(member))
        self._file.seek(end)


def _local(member: Member) -> bytes:
    """Return the local header, its extra field padded so that the data starts aligned."""
    wide = _wide(member, in_local=True)
    extra = _extra64(member) if wide else b""
    if member.method == STORED:
        end = member.offset + LOCAL.size + len(member.name) + len(extra) + 6
        pad = -end % ALIGNMENT
        extra += struct.pack("<3H", 0xD935, 2 + pad, ALIGNMENT) + bytes(pad)
    sizes = (MAX32, MAX32) if wide else (member.length, member.size)
    version = 45 if wide else 20
    name = member.name.encode()
    fixed = (b"PK\3\4", version, 0, member.method, 0, DATE, member.crc, *sizes)
    return LOCAL.pack(*fixed, len(name), len(extra)) + name + extra


def _central(member: Member) -> bytes:
    wide = _wide(member, in_local=False)
    extra = _extra64(member, member.offset) if wide else b""
    sizes = (MAX32, MAX32) if wide else (member.length, member.size)
    offset = MAX32 if wide else member.offset
    version = 45 if wide else 20
    name = member.name.encode()
    fixed = (b"PK\1\2", version, version, 0, member.method, 0, DATE, member.crc, *sizes)
    rest = (len(name), len(extra), 0, 0, 0, 0, offset)
    return CENTRAL.pack(*fixed, *rest) + name + extra


def _wide(member: Member, *, in_local: bool) -> bool:
    """Return whether the ZIP64 fields are needed: always all of them or none."""
    largest = max(member.size, member.length, 0 if in_local else member.offset)
    return largest >= MAX32


def _extra64(member: Member, *offset: int) -> bytes:
    values = (member.size, member.length, *offset)
    return struct.pack(f"<2H{len(values)}Q", 1, 8 * len(values), *values)


def read(data: memoryview, name: str, known: Sequence[str]) -> dict[str, Member]:
    """Return the members of the archive that data holds, by name.

    Checks all of the structure, and that the members are some of those known, in that order;
    content() then checks a member's content.

    Raises:
        FormatError: data is anything else than an archive as Writer makes them.
    """
    members: dict[str, Member] = {}
    position, end = 0, 0
    for member in _directory(data, name):
        if member.name not in known or member.name in members:
            problem = "twice" if member.name in members else "which no .qtm has"
            raise FormatError(f"{name}: holds member {member.name[:60]!r} {problem}")
        if list(known).index(member.name) < position:
            raise FormatError(f"{name}: member {member.name} is out of order: {', '.join(known)}")
        position = list(known).index(member.name)
        header = _local(member)
        member.start = member.offset + len(header)
        if member.offset != end or data[member.offset : member.start] != header:
            raise FormatError(f"{name}: the header of {member.name} is damaged; get it again")
        end = member.start + member.length
        members[member.name] = member
    return members


def _directory(data: memoryview, name: str) -> Iterator[Member]:
    """Yield the entries of the central directory, which must fill the end of data."""
    start, stop, count = _end(data, name)
    for _ in range(count):
        if stop - start < CENTRAL.size:
            raise FormatError(f"{name}: the ZIP directory is damaged; get the file again")
        fields = CENTRAL.unpack_from(data, start)
        method, crc, length, size = fields[4], *fields[7:10]
        n_name, n_extra, offset = fields[10], fields[11], fields[16]
        text = bytes(data[start + CENTRAL.size :][:n_name])
        if MAX32 in (length, size, offset) and n_extra == 28:
            at = start + CENTRAL.size + n_name + 4
            if stop - at >= 24:
                size, length, offset = struct.unpack_from("<3Q", data, at)
        member = Member(text.decode("ascii", "replace"), method, size, length, crc, offset)
        if not text.isascii() or method not in (STORED, DEFLATED):
            raise FormatError(f"{name}: the ZIP directory is damaged; get the file again")
        expected = _central(member)
        if data[start : min(start + len(expected), stop)] != expected:
            raise FormatError(f"{name}: the ZIP entry of {member.name[:60]!r} is damaged")
        if method == STORED and size != length:
            raise FormatError(f"{name}: member {member.name[:60]!r} lies about its size")
        if offset + length > len(data):
            raise FormatError(f"{name}: member {member.name[:60]!r} ends after the file")
        start += len(expected)
        yield member
    if start != stop:
        raise FormatError(f"{name}: the ZIP directory is damaged; get the file again")


def _end(data: memoryview, name: str) -> tuple[int, int, int]:
    """Return start and stop of the central directory and its number of entries."""
    at = len(data) - END.size
    if at < 0 or bytes(data[at : at + 4]) != b"PK\5\6":
        raise FormatError(f"{name}: does not end as a .qtm does: truncated? get the file again")
    _, _, _, count, _, size, start, _ = END.unpack_from(data, at)
    stop = at
    if MAX32 in (size, start) and at >= END64.size + LOCATOR64.size:
        stop = at - END64.size - LOCATOR64.size
        size, start = END64.unpack_from(data, stop)[8:10]
    if start + size != stop:
        raise FormatError(f"{name}: the ZIP directory is damaged; get the file again")
    return start, stop, count


def content(data: memoryview, name: str, member: Member, limit: int) -> memoryview:
    """Return the content of a member, at most limit bytes, its checksum checked.

    Raises:
        FormatError: the content is too large or damaged.
    """
    if member.size > limit:
        raise FormatError(
            f"{name}: member {member.name} says it has {member.size} bytes; "
            f"at most {limit} are read"
        )
    stored = data[member.start : member.start + member.length]
    if member.method == DEFLATED:
        stored = memoryview(_inflate(stored, name, member))
    if zlib.crc32(stored) != member.crc:
        raise FormatError(f"{name}: member {member.name} is damaged (checksum); get the file again")
    return stored


def _inflate(stored: memoryview, name: str, member: Member) -> bytes:
    inflater = zlib.decompressobj(-15)
    try:
        inflated = inflater.decompress(stored, member.size + 1)
    except zlib.error as error:
        raise FormatError(f"{name}: member {member.name} is damaged: {error}") from error
    if len(inflated) != member.size or not inflater.eof or inflater.unused_data:
        raise FormatError(f"{name}: member {member.name} lies about its size")
    return inflated
