// bin(x) = floor(x / width), width a power of two; over a block of a tensor.
//
// One kernel for each instruction set. It never adds floats, so all variants agree bit for bit.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>

#include "isa.h"

namespace qtool {

constexpr int kBins = 4096;  // bins on each side of 0: legal bins are -kBins .. kBins - 1

// Running extremes of the bits of the elements. Floats of one sign order as their bits do, so
// these three give the least and the greatest element, and NaN and infinity stand out.
struct Extremes {
  int32_t highest = std::numeric_limits<int32_t>::min();    // bits as signed: the greatest, if >= 0
  uint32_t lowest = 0;                                      // as unsigned: the least, if negative
  uint32_t nearest = std::numeric_limits<uint32_t>::max();  // the one left, if all have one sign
};

// Updates extremes with x (n,). If every bin is legal: writes bin(x[i]) + kBins of each x[i] that
// is not 0 to bins (n + kBinSlack,), and returns how many those are; else bins and the result mean
// nothing. per_width is 1 / width, 2**-116 .. 2**126.
using BinKernel = size_t (*)(const float* x, size_t n, float per_width, Extremes& extremes,
                             uint16_t* bins) noexcept;

constexpr size_t kBinSlack = 16;  // bins are stored in whole vectors

struct HistogramVariant {
  Isa isa;
  BinKernel bin;
};

#define QTOOL_HISTOGRAM(isa, bin)                                           \
  size_t bin(const float* x, size_t n, float per_width, Extremes& extremes, \
             uint16_t* bins) noexcept;
#include "histogram/kernels.inc"
#undef QTOOL_HISTOGRAM

}  // namespace qtool
