// The definition of both kernels for one element; the vector variants use it for what is left over.
// static inline: each instruction set's file keeps its own copy.
#pragma once

#include <cmath>
#include <cstring>

#include "histogram/kernels.h"

namespace qtool {

static inline void scan_one(float x, Extremes& extremes) noexcept {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  bits &= 0x7fffffff;
  if (bits > extremes.magnitude) extremes.magnitude = bits;
  if (x < extremes.minimum) extremes.minimum = x;
  if (x > extremes.maximum) extremes.maximum = x;
}

// x is not 0. The product is exact unless it underflows; then only its sign counts.
static inline uint16_t bin_one(float x, float per_width) noexcept {
  const float scaled = x * per_width;
  const int bin = static_cast<int>(scaled);
  const bool below = (scaled < static_cast<float>(bin)) | ((scaled == 0) & (x < 0));
  return static_cast<uint16_t>(bin - below + kBins);
}

static inline size_t bin_rest(const float* x, size_t n, float per_width, uint16_t* bins) noexcept {
  size_t count = 0;
  for (size_t i = 0; i < n; ++i) {  // without a branch: which elements are 0 cannot be predicted
    bins[count] = bin_one(x[i], per_width);
    count += x[i] != 0;
  }
  return count;
}

}  // namespace qtool
