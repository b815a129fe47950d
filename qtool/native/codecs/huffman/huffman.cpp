#include "codecs/huffman/huffman.h"

#include <algorithm>
#include <cstring>

#include "codecs/huffman/lengths.h"

namespace qtool::codecs {
namespace {

constexpr uint32_t kSlots = 1u << kMaxCodeBits;

// Two symbols are looked up at once where the mean code has at most so many bits.
constexpr double kTwoSymbolBits = 4.5;

uint64_t load(const uint8_t* at) noexcept {
  uint64_t bits;
  std::memcpy(&bits, at, 8);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
  bits = __builtin_bswap64(bits);
#endif
  return bits;
}

size_t quarter(size_t n, int stream) noexcept {  // symbols of a stream
  const size_t each = (n + kStreams - 1) / kStreams;
  const size_t first = std::min(n, each * static_cast<size_t>(stream));
  return std::min(each, n - first);
}

void put_stream(const uint8_t* symbols, size_t n, const uint8_t (&lengths)[256],
                const uint16_t (&codes)[256], Bytes& out) {
  uint64_t bits = 0;
  int filled = 0;
  size_t at = out.size();
  out.resize(at + n * kMaxCodeBits / 8 + 16);
  for (size_t i = 0; i < n; ++i) {
    bits |= uint64_t{codes[symbols[i]]} << filled;
    filled += lengths[symbols[i]];
    if (filled < 32) continue;
    for (int k = 0; k < 4; ++k)
      out[at + static_cast<size_t>(k)] = static_cast<uint8_t>(bits >> (8 * k));
    at += 4;
    bits >>= 32;
    filled -= 32;
  }
  for (; filled > 0; filled -= 8, bits >>= 8) out[at++] = static_cast<uint8_t>(bits);
  out.resize(at);
}

// What the next 12 bits say: a symbol and its length, or, in Pair, up to two.
struct One {
  uint8_t symbol, length;
};

struct Pair {
  uint8_t symbols[2];
  uint8_t length, count;
};

void fill(const uint8_t (&lengths)[256], One* table) noexcept {
  uint16_t codes[256];
  canonical_codes(lengths, codes);
  std::fill(table, table + kSlots, One{0, kMaxCodeBits});
  for (int s = 0; s < 256; ++s) {
    if (lengths[s] == 0) continue;
    const One one = {static_cast<uint8_t>(s), lengths[s]};
    for (uint32_t slot = codes[s]; slot < kSlots; slot += 1u << lengths[s]) table[slot] = one;
  }
}

void fill(const One* ones, Pair* table) noexcept {
  for (uint32_t slot = 0; slot < kSlots; ++slot) {
    const One first = ones[slot], second = ones[slot >> first.length];
    const bool both = first.length + second.length <= kMaxCodeBits;
    table[slot] = {{first.symbol, second.symbol},
                   static_cast<uint8_t>(first.length + (both ? second.length : 0)),
                   static_cast<uint8_t>(both ? 2 : 1)};
  }
}

// One stream of bits: position is in bits from begin.
struct Stream {
  const uint8_t* begin;
  size_t size;  // bytes
  size_t position = 0;
  uint8_t* out;
  uint8_t* end;

  bool has_word() const noexcept { return position / 8 + 8 <= size; }
  uint64_t word() const noexcept { return load(begin + position / 8) >> (position % 8); }
};

// Decodes one after the other, every read checked, to the last bit.
bool decode_rest(Stream& stream, const One* table) noexcept {
  while (stream.out < stream.end) {
    uint64_t bits = 0;
    const size_t byte = stream.position / 8;
    for (size_t i = 0; i < 3 && byte + i < stream.size; ++i) {
      bits |= uint64_t{stream.begin[byte + i]} << (8 * i);
    }
    const One one = table[(bits >> (stream.position % 8)) % kSlots];
    stream.position += one.length;
    if (stream.position > 8 * stream.size) return false;
    *stream.out++ = one.symbol;
  }
  if ((stream.position + 7) / 8 != stream.size) return false;
  return stream.position % 8 == 0 || stream.begin[stream.size - 1] >> (stream.position % 8) == 0;
}

constexpr int kPerWord = 4;  // 4 codes of 12 bits are in the 57 that a word has at least

void decode_ones(Stream (&streams)[kStreams], const One* table) noexcept {
  Stream a = streams[0], b = streams[1], c = streams[2], d = streams[3];
  while (d.end - d.out >= kPerWord && a.has_word() && b.has_word() && c.has_word() &&
         d.has_word()) {  // the last stream has the fewest symbols
    uint64_t u = a.word(), v = b.word(), w = c.word(), x = d.word();
    for (int i = 0; i < kPerWord; ++i) {
      const One p = table[u % kSlots], q = table[v % kSlots];
      const One r = table[w % kSlots], s = table[x % kSlots];
      u >>= p.length, v >>= q.length, w >>= r.length, x >>= s.length;
      a.position += p.length, b.position += q.length;
      c.position += r.length, d.position += s.length;
      a.out[i] = p.symbol, b.out[i] = q.symbol, c.out[i] = r.symbol, d.out[i] = s.symbol;
    }
    a.out += kPerWord, b.out += kPerWord, c.out += kPerWord, d.out += kPerWord;
  }
  streams[0] = a, streams[1] = b, streams[2] = c, streams[3] = d;
}

void put(Stream& stream, uint64_t& word, const Pair* table) noexcept {
  const Pair pair = table[word % kSlots];
  word >>= pair.length;
  stream.position += pair.length;
  std::memcpy(stream.out, pair.symbols, 2);
  stream.out += pair.count;
}

void decode_pairs(Stream (&streams)[kStreams], const Pair* table) noexcept {
  Stream a = streams[0], b = streams[1], c = streams[2], d = streams[3];
  const auto room = [](const Stream& s) { return s.end - s.out >= 2 * kPerWord; };
  while (room(a) && room(b) && room(c) && room(d) && a.has_word() && b.has_word() && c.has_word() &&
         d.has_word()) {
    uint64_t u = a.word(), v = b.word(), w = c.word(), x = d.word();
    for (int i = 0; i < kPerWord; ++i) {
      put(a, u, table), put(b, v, table), put(c, w, table), put(d, x, table);
    }
  }
  streams[0] = a, streams[1] = b, streams[2] = c, streams[3] = d;
}

bool read_streams(Reader in, uint8_t* out, size_t n, Stream (&streams)[kStreams]) noexcept {
  uint64_t sizes[kStreams], sum = 0;
  for (int k = 0; k < kStreams - 1; ++k) sum += sizes[k] = in.number();
  if (!in.ok || sum > in.left()) return false;
  sizes[kStreams - 1] = in.left() - sum;
  for (int k = 0; k < kStreams; ++k) {
    const size_t symbols = quarter(n, k);
    streams[k] = {in.at, sizes[k], 0, out, out + symbols};
    out += symbols;
    in.at += sizes[k];
  }
  return true;
}

}  // namespace

void canonical_codes(const uint8_t (&lengths)[256], uint16_t (&codes)[256]) noexcept {
  uint32_t next = 0;
  for (int length = 1; length <= kMaxCodeBits; ++length, next <<= 1) {
    for (int s = 0; s < 256; ++s) {
      if (lengths[s] != length) continue;
      uint32_t reversed = 0;
      for (int i = 0; i < length; ++i) reversed |= (next >> i & 1) << (length - 1 - i);
      codes[s] = static_cast<uint16_t>(reversed);
      ++next;
    }
  }
}

uint64_t huffman_size(const uint64_t (&counts)[256], const uint8_t (&lengths)[256]) {
  Bytes header;
  write_lengths(lengths, header);
  uint64_t bits = 0;
  for (int s = 0; s < 256; ++s) bits += counts[s] * lengths[s];
  return header.size() + bits / 8 + 2 * kStreams;
}

void huffman_encode(const uint8_t* symbols, size_t n, const uint8_t (&lengths)[256], Bytes& out) {
  uint16_t codes[256] = {};
  canonical_codes(lengths, codes);
  write_lengths(lengths, out);
  Bytes streams;
  for (int k = 0; k < kStreams; ++k) {
    const size_t before = streams.size(), size = quarter(n, k);
    put_stream(symbols, size, lengths, codes, streams);
    if (k < kStreams - 1) put_number(out, streams.size() - before);
    symbols += size;
  }
  out.insert(out.end(), streams.begin(), streams.end());
}

bool huffman_decode(Reader in, uint8_t* out, size_t n) {
  uint8_t lengths[256];
  Stream streams[kStreams];
  if (!read_lengths(in, lengths) || !read_streams(in, out, n, streams)) return false;
  One ones[kSlots];
  fill(lengths, ones);
  if (static_cast<double>(in.left()) * 8 <= kTwoSymbolBits * static_cast<double>(n)) {
    Pair pairs[kSlots];
    fill(ones, pairs);
    decode_pairs(streams, pairs);
  } else {
    decode_ones(streams, ones);
  }
  for (Stream& stream : streams) {
    if (!decode_rest(stream, ones)) return false;
  }
  return true;
}

}  // namespace qtool::codecs
