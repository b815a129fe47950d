// rANS: symbols as one number, x' = (x / f) * 2**bits + start + x % f, in 2, 8 or 32 lanes that
// share one stream of 16-bit words. Symbol i is of lane i % lanes.
//
//   decode:  slot = x % 2**bits;  symbol s with start[s] <= slot < start[s] + f[s]
//            x = f[s] * (x / 2**bits) + slot - start[s];  if x < 2**15: x = x * 2**16 + next word
//
// All states begin (for the decoder: end) at 2**15 and stay below 2**31.
#pragma once

#include <string>

#include "codecs/rans/table.h"
#include "isa.h"

namespace qtool::codecs {

constexpr uint32_t kLowest = 1u << 15;
constexpr int kLeastLanes = 2, kFewLanes = 8, kManyLanes = 32;

// A lane costs about two bytes, so that short streams have fewer.
constexpr int lanes_for(size_t n) noexcept {
  return n < size_t{1} << 13 ? kLeastLanes : n < size_t{1} << 16 ? kFewLanes : kManyLanes;
}

// What the kernels look up: the symbol of each slot, and of each symbol its numbers.
struct RansSlots {
  uint32_t mask;
  int bits;
  uint32_t numbers[256];                      // f << 16 | start
  uint8_t symbols[(1 << kMaxTableBits) + 8];  // readable in units of 4 bytes
};

struct RansArgs {
  const RansSlots* slots;
  uint32_t* states;      // (lanes,)
  const uint8_t* words;  // moved on to the first that was not read
  const uint8_t* end;
  uint8_t* out;
  size_t n_groups;  // of kManyLanes symbols
};

// Decodes whole groups while the words surely suffice; returns how many groups.
using RansKernel = size_t (*)(RansArgs& args) noexcept;

struct RansVariant {
  Isa isa;
  RansKernel decode;
};

#define QTOOL_RANS(isa, decode) size_t decode(RansArgs& args) noexcept;
#include "codecs/rans/kernels.inc"
#undef QTOOL_RANS

// Appends the states and words of symbols (n,), n > 0, to out.
void rans_encode(const uint8_t* symbols, size_t n, const RansTable& table, Bytes& out);

// False if the bytes are not exactly a stream of n symbols. isa is "" for the fastest.
bool rans_decode(Reader in, const RansTable& table, uint8_t* out, size_t n, const char* isa);

}  // namespace qtool::codecs
