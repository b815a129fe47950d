"""CODECS: lossless maps between an array and bytes, by name; and the smallest of them.

A chain is what a .qtm file stores about one tensor: a list of links, first applied first when
encoding. The first codec of a chain sees the tensor's values, each later one the bytes that the
codec before it made. What `smallest` returns has one link: its codecs nest by themselves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from qtool.codecs import (
    arith,
    bitpack,
    blocks,
    codebook,
    huffman,
    lz,
    planes,
    rans,
    raw,
    scaled,
    sparse,
)
from qtool.codecs.choose import choose
from qtool.codecs.streams import Array, Bytes, Decoder, Encoder, Layout, as_bytes
from qtool.errors import FormatError
from qtool.registry import lookup

Link = Mapping[str, Any]  # {"id": Codec.id, other parameters}; "length" is that of decoded bytes

MAX_RATIO = 1 << 19  # a reader refuses what decodes to more bytes for each stored one,
FREE_BYTES = 16  # of which so many are free


class Codec(NamedTuple):
    """One codec.

    encode returns the bytes for a C-contiguous array of any dtype and shape, or None where the
    codec cannot hold its values. decode fills an array of bytes with the little-endian bytes of
    the values, or raises FormatError, whatever its data. inside returns the streams that the
    data of a codec has inside, for people to look at.
    """

    id: int  # what a .qtm file stores: never reused, even after a codec is dropped
    encode: Callable[[Array, Encoder], bytes | None]
    decode: Callable[[memoryview, Bytes, Decoder], None]
    inside: Callable[[memoryview], list[memoryview]] = lambda data: []


CODECS: dict[str, Codec] = {
    "raw": Codec(0, raw.encode, raw.decode),
    "bitpack": Codec(1, bitpack.encode, bitpack.decode),
    "huffman": Codec(2, huffman.encode, huffman.decode),
    "rans": Codec(3, rans.encode, rans.decode),
    "arith": Codec(4, arith.encode, arith.decode),
    "codebook": Codec(5, codebook.encode, codebook.decode, codebook.chain),
    "sparse": Codec(6, sparse.encode, sparse.decode, sparse.chain),
    "planes": Codec(7, planes.encode, planes.decode, planes.chain),
    "blocks": Codec(8, blocks.encode, blocks.decode, blocks.chain),
    "scaled": Codec(9, scaled.encode, scaled.decode),
    "lz": Codec(10, lz.encode, lz.decode),
}

_BY_ID = {codec.id: codec for codec in CODECS.values()}


def smallest(
    values: Array,
    *,
    max: bool = False,
    tables: Sequence[bytes] = (),
    others: Mapping[int, Array] | None = None,
    seen: list[Array] | None = None,
) -> tuple[bytes, list[dict[str, Any]]]:
    """Return the smallest bytes of values that a codec gives, and the links that decode them.

    values is of any dtype and shape; (C_out, C_in, ...) for weights, whose neighbours max looks
    at. The bytes depend on nothing else: not on threads, machine or time. Without max it takes
    about 10 ns for each byte, with max about 1 us.

    What a file has in common: tables are its shared frequency tables, others arrays of its rows
    of which values may be a multiple. seen takes the counts of symbols that tables could serve.
    """
    values = np.ascontiguousarray(values)
    known = encoder(values.shape, max=max, tables=tables, others=others or {}, seen=seen)
    multiple = scaled.encode(values, known)
    if multiple is not None:
        return multiple, [{"id": scaled.ID}]
    stream = choose(values, known)
    return stream[1:], [{"id": stream[0]}]


def encoder(shape: Sequence[int] = (), **options: Any) -> Encoder:
    """Return what codecs need to encode an array of this shape."""
    return Encoder(choose, CODECS, layout=Layout.of(shape), **options)


def encode(
    values: Array, names: Sequence[str], **options: Any
) -> tuple[bytes, list[dict[str, Any]]]:
    """Return the bytes of values under the named codecs, and the links that decode them.

    Raises:
        UsageError: a name is not in CODECS.
        FormatError: a codec cannot hold the values.
    """
    links: list[dict[str, Any]] = []
    data = b""
    for name in names:
        codec = lookup(CODECS, name, "codec")
        encoded = codec.encode(np.ascontiguousarray(values), encoder(values.shape, **options))
        if encoded is None:
            raise FormatError(f"{name} cannot hold these values")
        length = {"length": values.nbytes} if links else {}  # the first's follows from the shape
        links.append({"id": codec.id, **length})
        data, values = encoded, as_bytes(encoded)
    return data, links


def decode(
    data: memoryview,
    links: Sequence[Link],
    dtype: np.dtype[Any],
    shape: tuple[int, ...],
    *,
    tables: Sequence[bytes] = (),
    row: Callable[[int], tuple[int, memoryview]] | None = None,
    isa: str = "",
) -> Array:
    """Return the array of this dtype and shape that encode made data from.

    Of raw values it is a view of data. tables are shared frequency tables, row returns codec and
    bytes of another row; isa names the instruction set of the kernels.

    Raises:
        FormatError: a codec id is unknown, or the bytes are not what the links say.
    """
    decoder = Decoder(tables, row, isa=isa, by_id=by_id)
    n_bytes = math.prod(shape) * dtype.itemsize
    check(links, len(data), n_bytes)
    for link in reversed(links[1:]):
        data = _decoded(data, link, link["length"], decoder)
    data = _decoded(data, links[0], n_bytes, decoder)
    return np.frombuffer(data, dtype.newbyteorder("<")).reshape(shape)


def _decoded(data: memoryview, link: Link, length: int, decoder: Decoder) -> memoryview:
    codec = by_id(link["id"])
    if codec is CODECS["raw"]:
        return data  # its length was checked
    out = np.empty(length, np.uint8)
    codec.decode(data, out, decoder)
    return out.data


def check(links: Sequence[Link], length: int, n_bytes: int) -> None:
    """Check a chain without its data: length is that of the data, n_bytes that of the values.

    Raises:
        FormatError: a codec is unknown, raw would change the length, or a codec would make
            absurdly much of it.
    """
    decoded = [n_bytes, *(link["length"] for link in links[1:])]
    stored = [*decoded[1:], length]
    for link, before, after in zip(links, decoded, stored, strict=True):
        if by_id(link["id"]) is CODECS["raw"] and before != after:
            raise FormatError(f"raw: {after} bytes, but {before} are needed")
        if before > MAX_RATIO * (after + FREE_BYTES):
            raise FormatError(f"{after} bytes cannot be {before} encoded ones: a bomb?")


def by_id(identifier: int) -> Codec:
    """Return the codec with this id.

    Raises:
        FormatError: there is none.
    """
    if identifier in _BY_ID:
        return _BY_ID[identifier]
    known = ", ".join(f"{codec.id} ({name})" for name, codec in CODECS.items())
    raise FormatError(f"codec {identifier} is unknown; this qtool knows {known}: upgrade it")


def chain(data: memoryview, links: Sequence[Link]) -> str:
    """Return the names of the codecs of encoded data: "codebook(planes(raw, rans), rans)"."""
    return "+".join(_named(link["id"], data if link is links[-1] else None) for link in links)


def _named(identifier: int, data: memoryview | None) -> str:
    codec = by_id(identifier)
    name = next(name for name, known in CODECS.items() if known is codec)
    streams = [] if data is None else codec.inside(data)
    inner = ", ".join(_named(stream[0], stream[1:]) for stream in streams)
    return f"{name}({inner})" if inner else name


def ids() -> Iterator[int]:
    """Return the ids of all codecs."""
    return (codec.id for codec in CODECS.values())
