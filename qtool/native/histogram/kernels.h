// bin(x) = floor(x / width), width a power of two; over blocks of a tensor.
//
// Two kernels for each instruction set. They never add floats, so all variants agree bit for bit.
#pragma once

#include <cstddef>
#include <cstdint>

#include "isa.h"

namespace qtool {

constexpr int kBins = 4096;  // bins on each side of 0: legal bins are -kBins .. kBins - 1

// What scan() learns; running, over any number of blocks.
struct Extremes {
  uint32_t magnitude;  // the largest |x|, as the bits of a float32; above 0x7f7fffff: not finite
  float minimum, maximum;
};

// x (n,) is read; extremes is updated.
using ScanKernel = void (*)(const float* x, size_t n, Extremes& extremes) noexcept;

// Writes bin(x[i]) + kBins of each x[i] that is not 0 to bins, and returns how many those are.
// per_width is 1 / width, 2**-116 .. 2**126, such that every bin is legal; bins (n + kSlack,).
using BinKernel = size_t (*)(const float* x, size_t n, float per_width, uint16_t* bins) noexcept;

constexpr size_t kSlack = 16;  // bins are stored in whole vectors

struct HistogramVariant {
  Isa isa;
  ScanKernel scan;
  BinKernel bin;
};

#define QTOOL_HISTOGRAM(isa, scan, bin)                             \
  void scan(const float* x, size_t n, Extremes& extremes) noexcept; \
  size_t bin(const float* x, size_t n, float per_width, uint16_t* bins) noexcept;
#include "histogram/kernels.inc"
#undef QTOOL_HISTOGRAM

}  // namespace qtool
