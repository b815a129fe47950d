"""The smallest stream for given values: sizes are counted where that is cheap, else tried."""

from __future__ import annotations

from qtool import _native
from qtool.codecs import bitpack, huffman, rans
from qtool.codecs.streams import SMALL_SYMBOLS, Array, Bytes, Encoder, bytes_of, item_bytes

SPARSE_ZEROS = 0.3  # share of zeros from which sparse is tried
SLOW_SYMBOLS = 40_000  # arith takes 15 ms for so many: if it makes them
SLOW_WORTH = 0.94  # times as small
SAVING = 16  # arith saves a byte of so many symbols, or is not worth its time
NOISE_SYMBOLS = 256  # so many with an entropy of 7.8 bits or more are noise, as mantissas are
NOISE_BITS = int(7.8 * 65536)
TRIED_SYMBOLS = 1 << 13  # of those
DOUBT = 0.03  # of what so few say
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
    if encoder.seen is not None:  # only the counts are wanted
        if n <= rans.SHARED_SYMBOLS:
            encoder.seen.append(counts)
        return b"\0"
    plan = rans.plan(counts, n, encoder)
    sizes = {
        "raw": n,
        "bitpack": bitpack.size(counts, n),
        "huffman": huffman.size(counts, n),
        "rans": plan.size,
    }
    best = min(sizes, key=lambda name: (sizes[name], encoder.codecs[name].id))
    if best == "rans":
        found = bytes([encoder.codecs["rans"].id]) + rans.encode_as(symbols, plan)
    else:
        found = _stream(best, symbols, encoder) or b""
    return _mixed(symbols, encoder, found)


def _mixed(symbols: Bytes, encoder: Encoder, found: bytes) -> bytes:
    """Return the stream of arith if it is enough smaller than what was found."""
    n = symbols.size
    if n >= NOISE_SYMBOLS and _native.entropy(symbols) >= n * NOISE_BITS:
        return found
    small = encoder.max or n <= SMALL_SYMBOLS
    if not small:
        part = symbols[n // 4 : n // 4 + TRIED_SYMBOLS]  # tells whether contexts help at all
        tried = _stream("arith", part, encoder) if n <= SLOW_SYMBOLS else None
        if tried is None or len(tried) * n > (SLOW_WORTH + DOUBT) * len(found) * part.size:
            return found
    mixed = _stream("arith", symbols, encoder)
    saving = 0 if encoder.max else n // SAVING
    most = len(found) - saving if small else SLOW_WORTH * len(found)
    return found if mixed is None or len(mixed) >= most else mixed
