"""Deflate (RFC 1951) whose bytes depend on nothing but its input.

zlib's output is not specified: its forks, one of which many systems now install as zlib, give
other bytes for the same level. The small members of a .qtm must be the same everywhere, so they
are compressed here. Any inflate reads the result; it is as small as zlib's, and takes about
half a second per megabyte.
"""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

END_OF_BLOCK = 256
WINDOW = 32768
MIN_MATCH, MAX_MATCH = 3, 258
MAX_CHAIN = 16  # candidates that are tried for a match
BLOCK_SYMBOLS = 1 << 16
LENGTH_BASES = (3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 15, 17, 19, 23, 27, 31, 35, 43, 51, 59, 67, 83, 99,
                115, 131, 163, 195, 227, 258)  # fmt: skip
LENGTH_BITS = (0,) * 8 + tuple(b for b in range(1, 6) for _ in range(4)) + (0,)
DISTANCE_BASES = (1, 2, 3, 4, 5, 7, 9, 13, 17, 25, 33, 49, 65, 97, 129, 193, 257, 385, 513, 769,
                  1025, 1537, 2049, 3073, 4097, 6145, 8193, 12289, 16385, 24577)  # fmt: skip
DISTANCE_BITS = (0, 0) + tuple(b for b in range(14) for _ in range(2))
CODE_ORDER = (16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15)

Token = tuple[int, int]  # (byte, 0), or (length, distance)


def deflate(data: bytes) -> bytes:
    """Return data as a raw deflate stream, which zlib.decompress(stream, -15) undoes."""
    bits = _Bits()
    tokens = list(_tokens(data))
    starts = range(0, max(len(tokens), 1), BLOCK_SYMBOLS)
    for start in starts:
        _write_block(bits, tokens[start : start + BLOCK_SYMBOLS], last=start == starts[-1])
    return bits.finish()


def _tokens(data: bytes) -> Iterator[Token]:
    """Yield the literals and matches that make up data, always the longest match that is found."""
    chains: dict[bytes, list[int]] = {}  # three bytes -> where they were
    position = 0
    while position < len(data):
        length, distance = _longest(data, position, chains)
        yield (length, distance) if length >= MIN_MATCH else (data[position], 0)
        stop = position + max(length, 1)
        for covered in range(position, stop):
            chains.setdefault(data[covered : covered + MIN_MATCH], []).append(covered)
        position = stop


def _longest(data: bytes, position: int, chains: dict[bytes, list[int]]) -> Token:
    """Return length and distance of the longest match, (0, 0) when there is none."""
    best, distance = 0, 0
    limit = min(MAX_MATCH, len(data) - position)
    if limit < MIN_MATCH:
        return 0, 0
    candidates = chains.get(data[position : position + MIN_MATCH], [])
    for candidate in reversed(candidates[-MAX_CHAIN:]):
        if position - candidate > WINDOW or best == limit:
            break
        if best and data[candidate + best] != data[position + best]:
            continue
        length = MIN_MATCH
        while length < limit and data[candidate + length] == data[position + length]:
            length += 1
        if length > best:
            best, distance = length, position - candidate
    return best, distance


def _write_block(bits: _Bits, tokens: Sequence[Token], *, last: bool) -> None:
    """Write one block with the Huffman codes that suit it."""
    symbols = [_symbols(token) for token in tokens]
    literals = Counter(s[0] for s in symbols)
    literals[END_OF_BLOCK] = 1
    distances = Counter(s[3] for s in symbols if s[3] >= 0)
    literal_sizes = _code_sizes(literals, 286, 15)
    distance_sizes = _code_sizes(distances or Counter({0: 1}), 30, 15)
    bits.add(int(last) | 2 << 1, 3)
    _write_sizes(bits, literal_sizes, distance_sizes)
    literal_codes, distance_codes = _codes(literal_sizes), _codes(distance_sizes)
    for literal, extra, n_extra, distance, extra2, n_extra2 in symbols:
        bits.add(*literal_codes[literal])
        if distance >= 0:
            bits.add(extra, n_extra)
            bits.add(*distance_codes[distance])
            bits.add(extra2, n_extra2)
    bits.add(*literal_codes[END_OF_BLOCK])


def _symbols(token: Token) -> tuple[int, int, int, int, int, int]:
    """Return a token as literal/length and distance symbol, each with its extra bits."""
    length, distance = token
    if distance == 0:
        return length, 0, 0, -1, 0, 0
    by_length = bisect_right(LENGTH_BASES, length) - 1
    by_distance = bisect_right(DISTANCE_BASES, distance) - 1
    return (
        257 + by_length, length - LENGTH_BASES[by_length], LENGTH_BITS[by_length],
        by_distance, distance - DISTANCE_BASES[by_distance], DISTANCE_BITS[by_distance],
    )  # fmt: skip


def _code_sizes(counts: Mapping[int, int], n_symbols: int, most: int) -> list[int]:
    """Return the bits of each symbol's Huffman code, at most `most`; 0 for unused ones."""
    counts = dict(counts)
    while True:
        sizes = _huffman(counts, n_symbols)
        if max(sizes) <= most:
            return sizes
        counts = {symbol: count // 2 + 1 for symbol, count in counts.items()}  # flatter


def _huffman(counts: Mapping[int, int], n_symbols: int) -> list[int]:
    sizes = [0] * n_symbols
    heap = [(count, symbol, [symbol]) for symbol, count in sorted(counts.items())]
    if len(heap) == 1:
        sizes[heap[0][1]] = 1
    heapq.heapify(heap)
    while len(heap) > 1:  # the first symbol of each set is unique, so sets are never compared
        count, first, symbols = heapq.heappop(heap)
        other_count, other_first, other = heapq.heappop(heap)
        for symbol in symbols + other:
            sizes[symbol] += 1
        heapq.heappush(heap, (count + other_count, min(first, other_first), symbols + other))
    return sizes


def _codes(sizes: Sequence[int]) -> list[tuple[int, int]]:
    """Return (code, bits) of each symbol: RFC 1951, 3.2.2, reversed as codes are written so."""
    codes = [(0, 0)] * len(sizes)
    code = 0
    for size in range(1, max(sizes) + 1):
        for symbol, found in enumerate(sizes):
            if found == size:
                codes[symbol] = (int(f"{code:0{size}b}"[::-1], 2), size)
                code += 1
        code <<= 1
    return codes


def _write_sizes(bits: _Bits, literals: list[int], distances: list[int]) -> None:
    """Write the code sizes, run-length and Huffman coded: RFC 1951, 3.2.7."""
    n_literals = max(257, 1 + max(i for i, size in enumerate(literals) if size))
    n_distances = 1 + max((i for i, size in enumerate(distances) if size), default=0)
    runs = list(_runs(literals[:n_literals] + distances[:n_distances]))
    sizes = _code_sizes(Counter(run[0] for run in runs), 19, 7)
    n_codes = max(4, 1 + max(i for i, symbol in enumerate(CODE_ORDER) if sizes[symbol]))
    bits.add(n_literals - 257, 5)
    bits.add(n_distances - 1, 5)
    bits.add(n_codes - 4, 4)
    for symbol in CODE_ORDER[:n_codes]:
        bits.add(sizes[symbol], 3)
    codes = _codes(sizes)
    for symbol, extra, n_extra in runs:
        bits.add(*codes[symbol])
        bits.add(extra, n_extra)


def _runs(sizes: list[int]) -> Iterator[tuple[int, int, int]]:
    """Yield (symbol, extra, extra bits): sizes, 16 repeats the last, 17 and 18 are zeros."""
    position = 0
    while position < len(sizes):
        size = sizes[position]
        run = 1
        while position + run < len(sizes) and sizes[position + run] == size and run < 138:
            run += 1
        if size == 0 and run >= 3:
            yield (17, run - 3, 3) if run <= 10 else (18, run - 11, 7)
        elif run >= 4:
            run = min(run, 7)
            yield size, 0, 0
            yield 16, run - 4, 2
        else:
            run = 1
            yield size, 0, 0
        position += run


class _Bits:
    """Collects bits, the lowest first."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._bits = 0
        self._n_bits = 0

    def add(self, value: int, n_bits: int) -> None:
        """Append the n_bits lowest bits of value, which has no others."""
        self._bits |= value << self._n_bits
        self._n_bits += n_bits
        while self._n_bits >= 8:
            self._bytes.append(self._bits & 255)
            self._bits >>= 8
            self._n_bits -= 8

    def finish(self) -> bytes:
        """Return all bytes, the last filled with zero bits."""
        if self._n_bits:
            self._bytes.append(self._bits)
        return bytes(self._bytes)
