#include "codecs/rans/table.h"

#include <algorithm>
#include <limits>

#include "codecs/binary_coder.h"
#include "codecs/log2.h"

namespace qtool::codecs {
namespace {

constexpr int kClasses = 16;  // of frequencies, by their number of bits

int width(uint32_t x) noexcept { return x == 0 ? 0 : 32 - __builtin_clz(x); }

// A frequency is coded as its number of bits, in unary, then the bits below the highest one; all
// in the context of the number of bits of the two frequencies before, since neighbours are alike.
struct Contexts {
  AdaptiveBit unary[kClasses][kClasses][kClasses];
  AdaptiveBit second[kClasses][2];
};

template <typename Coder>
uint32_t code_frequency(Coder& coder, Contexts& contexts, uint32_t f, int before, int previous) {
  const int wanted = width(f);
  int n = 0;
  AdaptiveBit* const unary = contexts.unary[previous][before];
  while (n < kMaxTableBits + 1 && code_bit(coder, unary[n], n < wanted)) ++n;
  if (n < 2) return static_cast<uint32_t>(n);
  uint32_t value = 1;
  AdaptiveBit* const second = contexts.second[n];
  AdaptiveBit plain;
  for (int i = n - 2; i >= 0; --i) {
    const int bit = static_cast<int>(f >> i & 1);
    AdaptiveBit fresh = plain;
    value = value << 1 |
            static_cast<uint32_t>(code_bit(coder, i == n - 2 ? second[previous >= n] : fresh, bit));
  }
  return value;
}

// Codes the frequencies until their sum is 2**bits; the rest are 0. False if it goes beyond.
template <typename Coder>
bool code_frequencies(Coder& coder, RansTable& table) {
  Contexts contexts;
  uint32_t sum = 0;
  const uint32_t total = 1u << table.bits;
  int before = 0, previous = 0;
  for (int s = 0; s < 256; ++s) {
    uint32_t& f = table.frequency[s];
    f = sum == total ? 0 : code_frequency(coder, contexts, f, before, previous);
    table.start[s] = sum;
    sum += f;
    if (sum > total) return false;
    before = previous;
    previous = width(f);
  }
  return sum == total;
}

void set_starts(RansTable& table) noexcept {
  uint32_t sum = 0;
  for (int s = 0; s < 256; ++s) {
    table.start[s] = sum;
    sum += table.frequency[s];
  }
}

}  // namespace

RansTable scaled_table(const uint64_t (&counts)[256], int bits) {
  RansTable table;
  table.bits = bits;
  uint64_t n = 0;
  for (uint64_t count : counts) n += count;
  const uint32_t total = 1u << bits;
  int64_t left = total;
  for (int s = 0; s < 256; ++s) {
    const auto share = static_cast<uint32_t>(static_cast<unsigned __int128>(counts[s]) * total / n);
    table.frequency[s] = counts[s] == 0 ? 0 : std::max(share, 1u);
    left -= table.frequency[s];
  }
  // The error of a frequency is what it costs: add where count / frequency is greatest, and take
  // where it is least; the first of several that are equal.
  for (; left != 0; left += left < 0 ? 1 : -1) {
    int best = -1;
    for (int s = 0; s < 256; ++s) {
      if (counts[s] == 0 || (left < 0 && table.frequency[s] == 1)) continue;
      if (best < 0) {
        best = s;
        continue;
      }
      // Of giving one to s: count * log(1 + 1 / f); of taking one: count * log(1 + 1 / (f - 1)).
      const uint64_t f = table.frequency[s] - (left < 0), g = table.frequency[best] - (left < 0);
      const auto here = static_cast<unsigned __int128>(counts[s]) * (2 * g + 1);
      const auto there = static_cast<unsigned __int128>(counts[best]) * (2 * f + 1);
      if (left < 0 ? here < there : here > there) best = s;
    }
    table.frequency[best] += left < 0 ? -1 : 1;
  }
  set_starts(table);
  return table;
}

uint64_t stream_cost(const uint64_t (&counts)[256], const RansTable& table) noexcept {
  uint64_t cost = 0;
  for (int s = 0; s < 256; ++s) {
    if (counts[s] == 0) continue;
    if (table.frequency[s] == 0) return std::numeric_limits<uint64_t>::max();
    cost += counts[s] * ((static_cast<uint64_t>(table.bits) << 16) - log2_q16(table.frequency[s]));
  }
  return cost;
}

RansTable best_table(const uint64_t (&counts)[256]) {
  uint32_t present = 0;
  uint64_t n = 0;
  for (uint64_t count : counts) {
    present += count != 0;
    n += count;
  }
  // Finer tables than n symbols can pay for are not looked at, nor coarser ones where all can.
  const int finest = n < 1u << 12 ? 11 : n < 1u << 16 ? 13 : kMaxTableBits;
  const int coarsest = n < 1u << 12 ? kMinTableBits : n < 1u << 16 ? 9 : 12;
  RansTable best;
  uint64_t least = std::numeric_limits<uint64_t>::max();
  for (int bits = finest; bits >= coarsest && present <= 1u << bits; --bits) {
    const RansTable table = scaled_table(counts, bits);
    Bytes written;
    write_table(table, written);
    const uint64_t cost = stream_cost(counts, table) + (uint64_t{written.size()} << 19);
    if (cost < least) {
      least = cost;
      best = table;
    }
  }
  return best;
}

void write_table(const RansTable& table, Bytes& out) {
  out.push_back(static_cast<uint8_t>(table.bits));
  BinaryEncoder coder(out);
  RansTable copy = table;
  code_frequencies(coder, copy);
  coder.finish();
}

bool read_table(Reader in, RansTable& table) {
  table.bits = in.byte();
  if (!in.ok || table.bits < kMinTableBits || table.bits > kMaxTableBits) return false;
  std::fill(std::begin(table.frequency), std::end(table.frequency), 0u);
  BinaryDecoder coder(in);
  return code_frequencies(coder, table) && coder.exact();
}

}  // namespace qtool::codecs
