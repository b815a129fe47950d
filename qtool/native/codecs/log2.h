// log2 of whole numbers in units of 2**-16, from integer arithmetic only: the same everywhere.
#pragma once

#include <cstdint>

namespace qtool::codecs {

// floor(2**16 * log2(x)), within 2 units; x from 1 to 2**62.
inline uint32_t log2_q16(uint64_t x) noexcept {
  const int whole = 63 - __builtin_clzll(x);
  // y = x / 2**whole in [1, 2), in units of 2**-31; squaring it doubles its logarithm.
  uint64_t y = whole >= 31 ? x >> (whole - 31) : x << (31 - whole);
  uint32_t result = static_cast<uint32_t>(whole) << 16;
  for (uint32_t bit = 1u << 15; bit != 0; bit >>= 1) {
    y = (y * y) >> 31;
    if (y >= uint64_t{1} << 32) {
      y >>= 1;
      result |= bit;
    }
  }
  return result;
}

}  // namespace qtool::codecs
