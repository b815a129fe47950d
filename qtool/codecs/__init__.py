"""CODECS: lossless maps between an array and bytes, by name; and chains of them.

A chain is what a .qtm file stores about one tensor: a list of links, first applied first when
encoding. The first codec of a chain sees the tensor's values, each later one the bytes that the
codec before it made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from qtool.codecs import raw
from qtool.errors import FormatError
from qtool.registry import lookup

Array = npt.NDArray[Any]
Link = Mapping[str, Any]  # {"id": Codec.id, other parameters}; "length" is that of decoded bytes


class Codec(NamedTuple):
    """One codec.

    encode takes a C-contiguous array and returns its bytes and the parameters (a JSON object)
    that decoding needs. decode takes those bytes, the dtype and the shape of the array, and the
    parameters; it returns the array or raises FormatError, whatever the bytes and parameters.
    """

    id: int  # what a .qtm file stores: never reused, even after a codec is dropped
    encode: Callable[[Array], tuple[bytes, dict[str, Any]]]
    decode: Callable[[memoryview, np.dtype[Any], tuple[int, ...], Link], Array]


CODECS: dict[str, Codec] = {
    "raw": Codec(0, raw.encode, raw.decode),
}


def encode(values: Array, names: Sequence[str]) -> tuple[bytes, list[dict[str, Any]]]:
    """Return the bytes of values under the named codecs, and the links that decode them.

    Raises:
        UsageError: a name is not in CODECS.
    """
    links: list[dict[str, Any]] = []
    data = b""
    for name in names:
        codec = lookup(CODECS, name, "codec")
        data, parameters = codec.encode(np.ascontiguousarray(values))
        length = {"length": values.nbytes} if links else {}  # the first's follows from the shape
        links.append({"id": codec.id, **length, **parameters})
        values = np.frombuffer(data, np.uint8)
    return data, links


def decode(
    data: memoryview, links: Sequence[Link], dtype: np.dtype[Any], shape: tuple[int, ...]
) -> Array:
    """Return the array of this dtype and shape that encode made data from.

    Raises:
        FormatError: a codec id is unknown, or the bytes are not what the links say.
    """
    for link in reversed(links[1:]):
        array = by_id(link["id"]).decode(data, np.dtype(np.uint8), (link["length"],), link)
        data = array.data
    return by_id(links[0]["id"]).decode(data, dtype, shape, links[0])


def check(links: Sequence[Link], length: int, n_bytes: int) -> None:
    """Check a chain without its data: length is that of the data, n_bytes that of the values.

    Raises:
        FormatError: a codec is unknown, or raw would change the length.
    """
    decoded = [n_bytes, *(link["length"] for link in links[1:])]
    stored = [*decoded[1:], length]
    for link, before, after in zip(links, decoded, stored, strict=True):
        if by_id(link["id"]) is CODECS["raw"] and before != after:
            raise FormatError(f"raw: {after} bytes, but {before} are needed")


def by_id(identifier: int) -> Codec:
    """Return the codec with this id.

    Raises:
        FormatError: there is none.
    """
    for codec in CODECS.values():
        if codec.id == identifier:
            return codec
    known = ", ".join(f"{codec.id} ({name})" for name, codec in CODECS.items())
    raise FormatError(f"codec {identifier} is unknown; this qtool knows {known}: upgrade it")
