"""The codecs of packed .qtm files in plain Python, by docs/qtm-format.md, section 7; no qtool.

Slow: about a microsecond for each bit of a symbol. read_qtm.py uses it.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np

DICTIONARY = Path(__file__).resolve().parent.parent / "qtool" / "codecs" / "onnx.dictionary"
M64 = (1 << 64) - 1
Row = Callable[[int], tuple[int, bytes]]


class Reader:
    """Bytes that are read from the front."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, length: int) -> bytes:
        """Return the next bytes."""
        if length > len(self.data) - self.at:
            raise ValueError("bytes are missing")
        self.at += length
        return self.data[self.at - length : self.at]

    def byte(self) -> int:
        """Return the next byte."""
        return self.take(1)[0]

    def number(self) -> int:
        """Return a LEB128 number."""
        result, shift = 0, 0
        while True:
            byte = self.byte()
            result |= (byte & 127) << shift
            if byte < 128:
                return result
            shift += 7

    def rest(self) -> bytes:
        """Return what is left."""
        return self.take(len(self.data) - self.at)


class BinaryDecoder:
    """The binary coder of 7.4."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 4
        self.low, self.high = 0, 0xFFFFFFFF
        self.value = int.from_bytes(data[:4].ljust(4, b"\0"), "big")

    def bit(self, p: int) -> int:
        """Return a bit whose chance of being 1 is p / 2**16."""
        middle = self.low + ((self.high - self.low) * p >> 16)
        one = self.value <= middle
        self.low, self.high = (self.low, middle) if one else (middle + 1, self.high)
        while self.low >> 24 == self.high >> 24:
            self.low = self.low << 8 & 0xFFFFFFFF
            self.high = (self.high << 8 | 255) & 0xFFFFFFFF
            new = self.data[self.at] if self.at < len(self.data) else 0
            self.value = (self.value << 8 | new) & 0xFFFFFFFF
            self.at += 1
        return int(one)


class AdaptiveBits:
    """Adaptive bits by context: those of 7.2, or with lz those of 7.10."""

    def __init__(self, coder: BinaryDecoder, *, lz: bool = False) -> None:
        self.coder, self.lz = coder, lz
        self.known: dict[object, list[int]] = {}  # p, seen
        self.limits = (512, 65024) if lz else (32, 65504)

    def chance(self, context: object) -> tuple[list[int], int]:
        """Return an adaptive bit, and its p as limited."""
        bit = self.known.setdefault(context, [1 << 15, 0])
        return bit, min(max(bit[0], self.limits[0]), self.limits[1])

    def see(self, bit: list[int], value: int) -> None:
        """Let an adaptive bit learn."""
        p, seen = bit
        if self.lz:
            rate = min(seen + 1, 4)
            bit[:] = p + (65535 - p >> rate) if value else p - (p >> rate), min(seen + 1, 4)
        else:
            rate = seen + 1 if seen < 4 else 5
            step = (65535 - p) // 2**rate if value else -(p // 2**rate)
            bit[:] = p + step, min(seen + 1, 5)

    def __call__(self, *context: object) -> int:
        """Return the next bit in a context."""
        bit, p = self.chance(context)
        value = self.coder.bit(p)
        self.see(bit, value)
        return value


def bitpack(data: bytes, n: int) -> bytes:
    """7.1."""
    kinds = data[0] + 1
    bits = (kinds - 1).bit_length()
    indices = np.unpackbits(np.frombuffer(data[1 + kinds :], np.uint8), bitorder="little")
    places = indices[: n * bits].reshape(n, bits) @ (1 << np.arange(bits))
    return bytes(np.frombuffer(data[1 : 1 + kinds], np.uint8)[places.astype(np.int64)])


def huffman(data: bytes, n: int) -> bytes:
    """7.2."""
    reader = Reader(data)
    bits = AdaptiveBits(BinaryDecoder(reader.take(reader.number())))
    lengths, before = [], 13
    for _ in range(256):
        length = 1
        for _ in range(4):
            length = length << 1 | bits(before, length)
        lengths.append(length - 16)
        before = min(length - 16, 13)
    code, codes = 0, {}
    for length in range(1, 13):
        for symbol in (s for s in range(256) if lengths[s] == length):
            codes[length, code] = symbol
            code += 1
        code <<= 1
    sizes = [reader.number() for _ in range(3)]
    streams = [*(reader.take(size) for size in sizes), reader.rest()]
    out, quarter = bytearray(), -(-n // 4)
    for k, stream in enumerate(streams):
        each = iter(np.unpackbits(np.frombuffer(stream, np.uint8), bitorder="little").tolist())
        for _ in range(max(0, min(quarter, n - k * quarter))):
            length, code = 1, next(each)
            while (length, code) not in codes:
                length, code = length + 1, code << 1 | next(each)
            out.append(codes[length, code])
    return bytes(out)


def frequencies(table: bytes) -> tuple[int, list[int]]:
    """Return the bits and the frequencies of a table of rans, 7.3."""
    total, coder = table[0], BinaryDecoder(table[1:])
    bits = AdaptiveBits(coder)
    found: list[int] = []
    w1 = w2 = 0  # bits of the frequency before, and of that two before
    while sum(found) < 1 << total:
        w = 0
        while w < 15 and bits("w", w2, w1, w):
            w += 1
        value = 1 if w else 0
        for k in range(w - 1):
            if k == 0:
                value = value << 1 | bits("first", w, w1 >= w)
            else:
                value = value << 1 | coder.bit(1 << 15)
        found.append(value)
        w2, w1 = w1, w
    return total, found


def rans(data: bytes, n: int, tables: list[bytes]) -> bytes:
    """7.3."""
    reader = Reader(data)
    shared = reader.number()
    table = tables[shared - 1] if shared else reader.take(reader.number())
    bits, counts = frequencies(table)
    symbol_of = np.repeat(np.arange(len(counts)), counts).tolist()
    starts = [0, *np.cumsum(counts).tolist()]
    lanes = reader.byte()
    states = list(struct.unpack(f"<{lanes}I", reader.take(4 * lanes)))
    words = iter(np.frombuffer(reader.rest(), "<u2").tolist())
    out, mask = bytearray(), (1 << bits) - 1
    for i in range(n):
        x = states[i % lanes]
        symbol = symbol_of[x & mask]
        x = counts[symbol] * (x >> bits) + (x & mask) - starts[symbol]
        states[i % lanes] = x << 16 | next(words) if x < 1 << 15 else x
        out.append(symbol)
    if any(x != 1 << 15 for x in states):
        raise ValueError("rans does not end as it should")
    return bytes(out)


@functools.cache
def logistic() -> tuple[list[int], list[int]]:
    """Return squash(x) for x from -2047 on, and stretch(u) for u from 0, of 7.4."""
    power, half = 1 << 62, []
    for _ in range(2048):
        half.append(min(65535, (1 << 78) // ((1 << 62) + power)))
        power = power * 4593706758521714574 >> 62
    squash = [max(1, 65536 - v) for v in half[:0:-1]] + half
    stretch, x = [], -2047
    for u in range(4096):
        while x < 2047 and squash[2047 + x] < 16 * u + 8:
            x += 1
        stretch.append(x)
    return squash, stretch


class Slots:
    """Slots by number: [P, count]."""

    def __init__(self, limit: int, first: Callable[[int], list[int]] = lambda i: [1 << 21, 0]):
        self.limit, self.first = limit, first
        self.known: dict[int, list[int]] = {}

    def __getitem__(self, index: int) -> list[int]:
        if index not in self.known:
            self.known[index] = self.first(index)
        return self.known[index]

    def see(self, slot: list[int], bit: int) -> None:
        """Let a slot learn."""
        p, c = slot
        target = (1 << 22) - 1 if bit else 0
        slot[:] = p + ((target - p) * ((1 << 17) // (2 * c + 3)) >> 16), min(c + 1, self.limit)


class Mixer:
    """Sets of weights, and what they make of the inputs."""

    def __init__(self, coder: BinaryDecoder, n: int, first: int, slow: int) -> None:
        self.coder, self.slow, self.seen = coder, slow, 0
        self.weights: dict[int, list[int]] = {s: [first] * n for s in range(8)}

    def bit(self, inputs: list[int], which: int) -> int:
        """Return the next bit."""
        weights = self.weights[which]
        total = sum(w * x for w, x in zip(weights, inputs, strict=True)) >> 16
        q = logistic()[0][2047 + max(-2047, min(2047, total))]
        bit = self.coder.bit(max(16, min(65520, q)))
        rate = self.slow + 14 // (1 + self.seen // 4096)
        error = (65536 * bit - q) * rate >> 4
        self.seen += 1
        for i, x in enumerate(inputs):
            moved = weights[i] + (x * error + (1 << 15) >> 16)
            weights[i] = max(-(1 << 18), min(1 << 18, moved))
        return bit


def arith(data: bytes, n: int) -> bytes:
    """7.4."""
    reader = Reader(data)
    if reader.byte() == 1:
        return text(BinaryDecoder(reader.rest()), n)
    zero, step, row = reader.byte(), reader.number(), reader.number()
    coder = BinaryDecoder(reader.rest())
    stretch = logistic()[1]
    bits = next(b for b in range(9, 17) if b == 16 or 1 << b >= 16 * n)
    tables, mixer, out = [Slots(1000) for _ in range(4)], Mixer(coder, 4, 16384, 8), bytearray()

    def kind(back: int) -> int:
        if back > len(out):
            return 0
        d = (out[-back] - zero + 128) % 256 - 128
        return min(abs(d).bit_length(), 7) + (8 if d < 0 else 0)

    for i in range(n):
        contexts = [0, 16 * kind(1) + kind(2), 16 * kind(step) + kind(2 * step), i // row % 256]
        node = 1
        for k in range(8):
            places = [40501 * (256 * c + node) % 65536 >> 16 - bits for c in contexts]
            slots = [table[place] for table, place in zip(tables, places, strict=True)]
            bit = mixer.bit([stretch[slot[0] >> 10] for slot in slots], k)
            for table, slot in zip(tables, slots, strict=True):
                table.see(slot, bit)
            node = node << 1 | bit
        out.append(node & 255)
    return bytes(out)


def hashed(x: int) -> int:
    """Return H of 7.4."""
    y = x * 15485907386658061715 & M64
    return y ^ y >> 32


def equal_before(out: bytearray, place: int) -> int:
    """Return how many bytes before a place are those at the end, 5 to 32, or 0."""
    n = 0
    while n < 32 and n < place and out[place - 1 - n] == out[-1 - n]:
        n += 1
    return n if n >= 5 else 0


def next_word(word: int, word2: int, c: int) -> tuple[int, int]:
    """Return the hashes of the word that the bytes are in, and of the one before, after c."""
    if 97 <= c | 32 <= 122:
        return (word + c + 1) * 2685821657736338717 & M64, word2
    return (0, word) if word else (0, word2)


def text(coder: BinaryDecoder, n: int) -> bytes:
    """The model text of 7.4."""
    stretch = logistic()[1]
    size = 1 << next(b for b in range(12, 23) if b == 22 or 1 << b >= 8 * n)
    tables = [Slots(30) for _ in range(5)]
    finer = [Slots(30, lambda i: [(2 * (i % 64) + 1) << 15, 6]) for _ in range(5)]
    matches, lasts = Slots(1000), {}
    mixer, out = Mixer(coder, 6, 12288, 12), bytearray()
    word = word2 = length = match = 0
    buckets = [0] * 5
    for i in range(n):
        b = int.from_bytes(bytes(out[-8:]), "big")
        hashes = [hashed((b << 56 - 8 * k & M64) + k & M64) for k in range(3)]
        word, word2 = next_word(word, word2, out[-1]) if out else (0, 0)
        hashes.append(hashed((b & 0xFF000000FF000000) + 3))
        hashes.append(hashed(11400714819323198485 * word + word2 + 4 & M64))
        if length:
            length, match = length + 1, match + 1
        if i >= 5:
            entry = hashed(b << 24 & M64) // 256 % (size // 16)
            place = lasts.get(entry, 0)
            if length == 0 and place:
                match, length = place, equal_before(out, place)
            lasts[entry] = i
        node = 1
        for k in range(8):
            m = k % 4
            if m == 0:
                v = 0 if k == 0 else node
                buckets = [hashed(h + v & M64) // 256 * 16 % size for h in hashes]
            places = [bucket + (1 << m | node & (1 << m) - 1) for bucket in buckets]
            slots = [table[place] for table, place in zip(tables, places, strict=True)]
            fine = [f[64 * min(s[1], 23) + (s[0] >> 16)] for f, s in zip(finer, slots, strict=True)]
            inputs, expected, sure = [stretch[f[0] >> 10] for f in fine], -1, 0
            if length and (out[match] | 256) >> 8 - k == node:
                expected = out[match] >> 7 - k & 1
                slot = matches[min(length, 31)]
                sure = stretch[slot[0] >> 10]
            inputs.append(sure if expected != 0 else -sure)
            which = 0 if expected < 0 else 1 if length < 8 else 2 if length < 24 else 3
            bit = mixer.bit(inputs, which)
            for table, each in [*zip(tables, slots, strict=True), *zip(finer, fine, strict=True)]:
                table.see(each, bit)
            if expected >= 0:
                matches.see(slot, int(bit == expected))
                length = length if bit == expected else 0
            node = node << 1 | bit
        out.append(node & 255)
    return bytes(out)


def literal(bits: AdaptiveBits, prior: int, expected: int | None) -> int:
    """Return a literal of 7.10."""
    node, left, same = 1, 8, expected is not None
    while left:
        left -= 1
        if same:
            bit = bits("expected", expected, left)
            same = bit == (expected or 0) >> left & 1
        else:
            (a, pa), (b, pb) = bits.chance(("one", node)), bits.chance(("two", prior, node))
            share = (0, 4, 6, 8, 10)[b[1]]
            bit = bits.coder.bit((pa * (16 - share) + pb * share) >> 4)
            bits.see(a, bit)
            bits.see(b, bit)
        node = node << 1 | bit
    return node & 255


def lz(data: bytes, n: int) -> bytes:
    """7.10."""
    out = bytearray(DICTIONARY.read_bytes() if data[0] else b"")
    end = len(out) + n
    coder = BinaryDecoder(data[1:])
    bits = AdaptiveBits(coder, lz=True)
    width = next(b for b in range(8, 19) if b == 18 or 1 << b >= 2 * end)
    places: dict[int, int] = {}
    foretold = 0

    def look(at: int) -> int:
        v = int.from_bytes(bytes(out[max(0, at - 4) : at]), "big")
        h = v * 2654435761 % (1 << 32) >> 32 - width
        before = places.get(h, 0)
        places[h] = at
        return at - before if before else 0

    def number(which: str, which_low: str, limit: int) -> int:
        w, value = 1, 1
        while bits(which, w):
            w += 1
        for _ in range(w - 1):
            low = bits(which_low, w, value) if value < limit else coder.bit(1 << 15)
            value = value << 1 | low
        return value - 1

    for at in range(1, len(out) + 1):
        foretold = look(at)
    recent, last, before = [1, 2, 3, 4], 0, 0
    while len(out) < end:
        s = 3 * last + before
        kind = 0 if not bits("copy", s) else 1 + bits("far", s)
        if kind == 0:
            expected = out[-recent[0]] if last else None
            out.append(literal(bits, out[-1] if out else 0, expected))
            foretold = look(len(out))
        else:
            if kind == 1:
                k = 0
                while k < 4 and bits("near", s, k):
                    k += 1
                distance = recent[k - 1] if k else foretold
                length = 1 + number("length 1" if k == 0 else "length 2", "low near", 16)
            else:
                length = 2 + number("length 0", "low far", 16)
                distance = 1 + number(f"distance {min(length, 4) - 2}", "low distance", 8)
            if not 0 < distance <= len(out) or length > end - len(out):
                raise ValueError("lz copies what is not there")
            for _ in range(length):
                out.append(out[-distance])
                foretold = look(len(out))
            others = [d for d in recent if d != distance]
            recent = [distance, *others[:3]]
        last, before = kind, last
    return bytes(out[end - n :])


def codebook(data: bytes, n: int, tables: list[bytes]) -> bytes:
    """7.5."""
    reader = Reader(data)
    width, count = reader.byte(), reader.byte() + 1
    values = np.frombuffer(stream(reader.take(reader.number()), count * width, tables), f"V{width}")
    indices = np.frombuffer(stream(reader.rest(), n // width, tables), np.uint8)
    return values[indices].tobytes()


def sparse(data: bytes, n: int, tables: list[bytes]) -> bytes:
    """7.6."""
    reader = Reader(data)
    width, most = reader.byte(), reader.byte()
    n_gaps = reader.number() if most else (n // width + 7) // 8
    count = reader.number()
    places = np.frombuffer(stream(reader.take(reader.number()), n_gaps, tables), np.uint8)
    elements = np.frombuffer(stream(reader.rest(), count * width, tables), f"V{width}")
    out = np.zeros(n // width, f"V{width}")
    if most == 0:
        mask = np.unpackbits(places, bitorder="little")[: n // width].astype(bool)
        out[mask] = elements
    else:
        ends = np.cumsum(places.astype(np.int64) + (places != most))
        out[ends[places != most] - 1] = elements
    return out.tobytes()


def planes(data: bytes, n: int, tables: list[bytes]) -> bytes:
    """7.7."""
    reader = Reader(data)
    width, transform = reader.byte(), reader.byte()
    parts = [reader.take(reader.number()) for _ in range(width - 1)] + [reader.rest()]
    columns = [np.frombuffer(stream(part, n // width, tables), np.uint8) for part in parts]
    y = np.stack(columns, axis=1).reshape(-1).view(f"<u{width}")
    top = np.array(8 * width - 1, y.dtype)
    one, high = np.array(1, y.dtype), np.array(1 << (8 * width - 1), y.dtype)
    if transform == 1:
        y = y >> one | y << top
    elif transform in (2, 4):
        y = np.where(y & one, ~(y >> one), y >> one).astype(y.dtype)
        y = np.cumsum(y, dtype=y.dtype) if transform == 4 else y
    elif transform == 3:
        y = np.cumsum(y, dtype=y.dtype)
        y = np.where(y >= high, y - high, ~y).astype(y.dtype)
    return y.tobytes()


def blocks(data: bytes, n: int, tables: list[bytes]) -> bytes:
    """7.8."""
    reader = Reader(data)
    size, out = reader.number(), b""
    while n - len(out) > size:
        out += stream(reader.take(reader.number()), size, tables)
    return out + stream(reader.rest(), n - len(out), tables)


def scaled(data: bytes, n: int, tables: list[bytes], row: Row) -> bytes:
    """7.9."""
    reader = Reader(data)
    codec, stored = row(reader.number())
    (factor,) = np.frombuffer(reader.take(4), "<f4")
    return (np.frombuffer(decode(codec, stored, n, tables, row), "<f4") * factor).tobytes()


def stream(data: bytes, n: int, tables: list[bytes]) -> bytes:
    """Return the n bytes of a stream, which begins with the id of its codec."""
    return decode(data[0], data[1:], n, tables)


def decode(codec: int, data: bytes, n: int, tables: list[bytes], row: Row | None = None) -> bytes:
    """Return the n bytes that data is under a codec."""
    plain = {1: bitpack, 2: huffman, 4: arith, 10: lz}
    nested = {3: rans, 5: codebook, 6: sparse, 7: planes, 8: blocks}
    if codec == 0 or (n == 0 and codec < 5):
        out = data
    elif codec in plain:
        out = plain[codec](data, n)
    elif codec in nested:
        out = nested[codec](data, n, tables)
    elif codec == 9 and row is not None:
        out = scaled(data, n, tables, row)
    else:
        raise ValueError(f"codec {codec} is unknown")
    if len(out) != n:
        raise ValueError(f"codec {codec} made {len(out)} bytes, not {n}")
    return out
