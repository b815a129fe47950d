// The end of wide products, for the compiler to vectorise; to be included in one file per
// instruction set.
#pragma once

#include <cmath>

#include "gemm_s16/gemm_s16.h"

namespace qtool {
namespace {

// Clipping before rounding changes nothing, for the bounds are integers. NaN fails both
// comparisons.
static void finish(const FinishS16Args& args) noexcept {
  const FinishS16Args a = args;
  const auto low = float(a.low - a.zero_point), high = float(a.high - a.zero_point);
  for (int64_t j = 0; j < kPanelS16; ++j) {
    const float real = a.real[j] * a.scale[j];
    const float above = low < real ? real : low;
    const float inside = above < high ? above : high;
#if defined(__SSE4_1__) || defined(__aarch64__)
    a.y[j] = int32_t(__builtin_rintf(inside)) + a.zero_point;
#else
    a.y[j] = int32_t(std::lrint(inside)) + a.zero_point;
#endif
  }
}

}  // namespace
}  // namespace qtool
