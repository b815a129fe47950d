"""The ZIP file around a .qtm: a strict subset of the format, written the same way every time.

Members are stored or deflated, their sizes known before their data, one right after the other
from byte 0, and nothing but the central directory follows. docs/qtm-format.md has the tables.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import BinaryIO

from qtool.errors import FormatError
from qtool.formats import mapping
from qtool.formats.deflate import deflate
from qtool.formats.quoted import quoted

ALIGNMENT = 64  # of the data of stored members, in the file
STORED, DEFLATED = 0, 8
MAX_DEFLATED_BYTES = 1 << 20  # of content; it takes a second
DATE = 0x0021  # 1980-01-01, the oldest that ZIP can say; time 0
LOCAL = struct.Struct("<4s5H3I2H")
N_EXTRA = LOCAL.size - 2  # where it has the length of the extra field
CENTRAL = struct.Struct("<4s6H3I5H2I")
END = struct.Struct("<4s4H2IH")
END64 = struct.Struct("<4sQ2H2I4Q")
LOCATOR64 = struct.Struct("<4sIQI")
MAX32 = 0xFFFFFFFF


@dataclass(frozen=True)
class Member:
    """One file of the archive: size and crc are those of its content, length that of its data."""

    name: str
    method: int
    size: int
    length: int
    crc: int
    offset: int = 0  # of its local header
    aligned: bool = True  # its data, if it is stored

    @property
    def start(self) -> int:
        """Where its data is in the file."""
        return self.offset + len(_local(self))


def pack(name: str, content: bytes) -> tuple[Member, list[bytes]]:
    """Return a member for a small content, deflated where that helps, and its data."""
    data = deflate(content) if len(content) <= MAX_DEFLATED_BYTES else content
    method = DEFLATED if len(data) < len(content) else STORED
    data = data if method == DEFLATED else content
    return Member(name, method, len(content), len(data), zlib.crc32(content)), [data]


def write(file: BinaryIO, members: Iterable[tuple[Member, Iterable[bytes | memoryview]]]) -> None:
    """Write the archive of some members, each with its data, in one go: file need not seek."""
    position = 0
    directory = []
    for member, chunks in members:
        header = _local(replace(member, offset=position))
        directory.append(_central(replace(member, offset=position)))
        file.write(header)
        for chunk in chunks:
            file.write(chunk)
            mapping.release(chunk)
        position += len(header) + member.length
    for entry in directory:
        file.write(entry)
    file.write(_trailer(position, sum(map(len, directory)), len(directory)))


def _trailer(start: int, size: int, n: int) -> bytes:
    """Return what ends an archive whose directory of n entries begins at start."""
    low = (min(size, MAX32), min(start, MAX32))
    end = END.pack(b"PK\5\6", 0, 0, n, n, *low, 0)
    if start < MAX32 and size < MAX32:
        return end
    wide = END64.pack(b"PK\6\6", 44, 45, 45, 0, 0, n, n, size, start)
    return wide + LOCATOR64.pack(b"PK\6\7", 0, start + size, 1) + end


def _local(member: Member) -> bytes:
    """Return the local header, its extra field padded so that the data starts aligned."""
    wide = max(member.size, member.length) >= MAX32
    extra = _extra64(member) if wide else b""
    if member.method == STORED and member.aligned:
        end = member.offset + LOCAL.size + len(member.name) + len(extra) + 6
        pad = -end % ALIGNMENT
        extra += struct.pack("<3H", 0xD935, 2 + pad, ALIGNMENT) + bytes(pad)
    sizes = (MAX32, MAX32) if wide else (member.length, member.size)
    version = 45 if wide else 20
    name = member.name.encode()
    fixed = (b"PK\3\4", version, 0, member.method, 0, DATE, member.crc, *sizes)
    return LOCAL.pack(*fixed, len(name), len(extra)) + name + extra


def _central(member: Member) -> bytes:
    wide = max(member.size, member.length, member.offset) >= MAX32
    extra = _extra64(member, member.offset) if wide else b""
    sizes = (MAX32, MAX32) if wide else (member.length, member.size)
    offset = MAX32 if wide else member.offset
    version = 45 if wide else 20
    name = member.name.encode()
    fixed = (b"PK\1\2", version, version, 0, member.method, 0, DATE, member.crc, *sizes)
    rest = (len(name), len(extra), 0, 0, 0, 0, offset)
    return CENTRAL.pack(*fixed, *rest) + name + extra


def _extra64(member: Member, *offset: int) -> bytes:
    """Return the ZIP64 extra field: always with all its values, or the field is not there."""
    values = (member.size, member.length, *offset)
    return struct.pack(f"<2H{len(values)}Q", 1, 8 * len(values), *values)


def read(
    data: memoryview, name: str, known: Sequence[str], unaligned: Collection[str] = ()
) -> dict[str, Member]:
    """Return the members of the archive that data holds, by name.

    Checks all of the structure, and that the members are some of those known, in that order;
    content() then checks a member's content. Those unaligned need not be aligned.

    Raises:
        FormatError: data is anything else than an archive as write() makes them.
    """
    members: dict[str, Member] = {}
    position, end = 0, 0
    for member in _directory(data, name):
        if member.name not in known or member.name in members:
            problem = "twice" if member.name in members else "which this qtool does not know"
            raise FormatError(f"{name}: holds member {quoted(member.name)} {problem}")
        if list(known).index(member.name) < position:
            raise FormatError(f"{name}: member {member.name} is out of order: {', '.join(known)}")
        position = list(known).index(member.name)
        n_extra = bytes(data[member.offset + N_EXTRA : member.offset + LOCAL.size])
        if member.name in unaligned and n_extra == b"\0\0":
            member = replace(member, aligned=False)
        header = _local(member)
        start = member.offset + len(header)
        if member.offset != end or bytes(data[end:start]) != header:
            raise FormatError(f"{name}: the header of {member.name} is damaged; get it again")
        end = start + member.length
        members[member.name] = member
    return members


def _directory(data: memoryview, name: str) -> Iterator[Member]:
    """Yield the entries of the central directory, which must fill the end of data."""
    damaged = FormatError(f"{name}: the ZIP directory is damaged; get the file again")
    start, stop, count = _end(data, name)
    for _ in range(count):
        member = _entry(data[start:stop])
        if member is None:
            raise damaged
        if member.method == STORED and member.size != member.length:
            raise FormatError(f"{name}: member {quoted(member.name)} lies about its size")
        if member.offset + member.length > len(data):
            raise FormatError(f"{name}: member {quoted(member.name)} ends after the file")
        start += len(_central(member))
        yield member
    if start != stop:
        raise damaged


def _entry(data: memoryview) -> Member | None:
    """Return the member that a directory entry at the start of data describes."""
    if len(data) < CENTRAL.size:
        return None
    fields = CENTRAL.unpack_from(data)
    method, crc, length, size = fields[4], *fields[7:10]
    n_name, n_extra, offset = fields[10], fields[11], fields[16]
    text = bytes(data[CENTRAL.size : CENTRAL.size + n_name])
    at = CENTRAL.size + n_name + 4
    if n_extra == 28 and len(data) >= at + 24:
        size, length, offset = struct.unpack_from("<3Q", data, at)
    if not text.isascii() or method not in (STORED, DEFLATED):
        return None
    member = Member(text.decode("ascii"), method, size, length, crc, offset)
    expected = _central(member)
    return member if bytes(data[: len(expected)]) == expected else None


def _end(data: memoryview, name: str) -> tuple[int, int, int]:
    """Return start and stop of the central directory and its number of entries."""
    at = len(data) - END.size
    if at < 0 or bytes(data[at : at + 4]) != b"PK\5\6":
        raise FormatError(f"{name}: does not end as a .qtm does: truncated? get the file again")
    count, size, start = END.unpack_from(data, at)[4:7]
    if MAX32 in (size, start) and at >= END64.size + LOCATOR64.size:
        at -= END64.size + LOCATOR64.size
        size, start = END64.unpack_from(data, at)[8:10]
    if start + size != at or bytes(data[at:]) != _trailer(start, size, count):
        raise FormatError(f"{name}: the ZIP directory is damaged; get the file again")
    return start, at, count


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
    start, found = member.start, data[member.start : member.start + member.length]
    if member.method == DEFLATED:
        start, data = 0, memoryview(_inflate(found, name, member))
        found = data
    crc = 0
    for piece in mapping.pieces(data, start, member.size):
        crc = zlib.crc32(piece, crc)
    if crc != member.crc:
        raise FormatError(f"{name}: member {member.name} is damaged (checksum); get the file again")
    return found


def _inflate(stored: memoryview, name: str, member: Member) -> bytes:
    inflater = zlib.decompressobj(-15)
    try:
        inflated = inflater.decompress(stored, member.size + 1)
    except zlib.error as error:
        raise FormatError(f"{name}: member {member.name} is damaged: {error}") from error
    if len(inflated) != member.size or not inflater.eof or inflater.unused_data:
        raise FormatError(f"{name}: member {member.name} lies about its size")
    return inflated
