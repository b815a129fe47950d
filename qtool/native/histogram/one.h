// The definition of the kernel for one element; the vector variants use it for what is left over.
// static inline: each instruction set's file keeps its own copy.
#pragma once

#include <cstring>

#include "histogram/kernels.h"

namespace qtool {

static inline void merge_lane(int32_t highest, uint32_t lowest, uint32_t nearest,
                              Extremes& extremes) noexcept {
  if (highest > extremes.highest) extremes.highest = highest;
  if (lowest > extremes.lowest) extremes.lowest = lowest;
  if (nearest < extremes.nearest) extremes.nearest = nearest;
}

static inline void see_one(float x, Extremes& extremes) noexcept {
  int32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  merge_lane(bits, static_cast<uint32_t>(bits), static_cast<uint32_t>(bits), extremes);
}

// x is not 0. The product is exact unless it underflows; then only its sign counts. One that no
// bin is legal for gets some bin.
static inline uint16_t bin_one(float x, float per_width) noexcept {
  constexpr float kLimit = kBins;
  const float scaled = x * per_width;
  const int bin = scaled > -kLimit && scaled < kLimit ? static_cast<int>(scaled) : 0;
  const bool below = (scaled < static_cast<float>(bin)) | ((scaled == 0) & (x < 0));
  return static_cast<uint16_t>(bin - below + kBins);
}

static inline size_t bin_rest(const float* x, size_t n, float per_width, Extremes& extremes,
                              uint16_t* bins) noexcept {
  size_t count = 0;
  for (size_t i = 0; i < n; ++i) {  // without a branch: which elements are 0 cannot be predicted
    see_one(x[i], extremes);
    bins[count] = bin_one(x[i], per_width);
    count += x[i] != 0;
  }
  return count;
}

}  // namespace qtool
