"""The smallest stream for given values: sizes are counted where that is cheap, else tried."""

from __future__ import annotations

from qtool import _native
from qtool.codecs import bitpack, huffman, rans
from qtool.codecs.streams import SMALL_SYMBOLS, Array, Encoder, bytes_of, item_bytes

SPARSE_ZEROS = 0.3  # share of zeros from which sparse is tried
MAX_SPARSE = 1 << 20  # bytes; decoding needs as many again
TRIED_VALUES = 4096  # of so few, a codebook is compared with the planes


def choose(values: Array, encoder: Encoder) -> bytes:
    """Return the smallest stream of values."""
    if values.size == 0:
        return bytes([encoder.codecs["raw"].id])
    if not encoder.nested and (parts := _stream("blocks", values, encoder)) is not None:
        return parts
    if item_bytes(values.dtype) == 1:
        return _bytes(values, encoder)
    return _elements(values, encoder)


def _bytes(values: Array, encoder: Encoder) -> bytes:
    """Return the smallest stream of elements of one byte."""
    plain = _symbols(values, encoder)
    if encoder.nested or values.size > MAX_SPARSE or _zeros(values) < SPARSE_ZEROS:
        return plain
    return min(plain, _stream("sparse", values, encoder) or plain, key=len)


def _elements(values: Array, encoder: Encoder) -> bytes:
    """Return the smallest stream of elements of several bytes."""
    book = None if encoder.nested else _stream("codebook", values, encoder)
    if book is not None and values.size > TRIED_VALUES:
        return book
    found = [book, _stream("planes", values, encoder), _stream("raw", values, encoder)]
    if not encoder.nested and _zeros(values) > SPARSE_ZEROS:
        found.append(_stream("sparse", values, encoder))
    if values.size <= TRIED_VALUES:
        found.append(_symbols(values, encoder))
    return min((stream for stream in found if stream is not None), key=len)


def _zeros(values: Array) -> float:
    """Return the share of elements whose bits are all 0."""
    width = item_bytes(values.dtype)
    n = values.nbytes // width
    return 1 - float(_native.count_nonzero(bytes_of(values), width)) / n


def _stream(name: str, values: Array, encoder: Encoder) -> bytes | None:
    codec = encoder.codecs[name]
    encoded = codec.encode(values, encoder)
    return None if encoded is None else bytes([codec.id]) + encoded


def _symbols(values: Array, encoder: Encoder) -> bytes:
    """Return the smallest stream of the bytes of values, none of which looks at others."""
    symbols = bytes_of(values)
    n = symbols.size
    counts = _native.count_bytes(symbols)
    if encoder.seen is not None and n <= rans.SHARED_SYMBOLS:
        encoder.seen.append(counts)
    sizes = {
        "raw": n,
        "bitpack": bitpack.size(counts, n),
        "huffman": huffman.size(counts, n),
        "rans": rans.size(counts, n, encoder),
    }
    best = min(sizes, key=lambda name: (sizes[name], encoder.codecs[name].id))
    found = _stream(best, symbols, encoder) or b""
    if encoder.max or n <= SMALL_SYMBOLS:
        mixed = _stream("arith", symbols, encoder)
        if mixed is not None and len(mixed) < len(found):
            return mixed
    return found
