// The end of wide products, and depthwise ones, for the compiler to vectorise; to be included in
// one file per instruction set.
#pragma once

#include <cmath>
#include <cstring>

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

template <typename T>
static void depthwise(const DepthwiseS16Args<T>& args) noexcept {
  constexpr int kLanes = 16;
  typedef int32_t Sums __attribute__((vector_size(kLanes * sizeof(int32_t))));
  typedef int16_t Weights __attribute__((vector_size(kLanes * sizeof(int16_t))));
  typedef T Elements __attribute__((vector_size(kLanes * sizeof(T))));
  const DepthwiseS16Args<T> a = args;
  int64_t c = 0;
  for (; c + kLanes <= a.channels; c += kLanes) {
    Sums acc = {};
    for (int64_t tap = 0; tap < a.taps; ++tap) {
      Elements x;
      Weights w;
      std::memcpy(&x, a.x[tap] + c, sizeof x);
      std::memcpy(&w, a.w + tap * a.channels + c, sizeof w);
      acc += (__builtin_convertvector(x, Sums) - a.middle) * __builtin_convertvector(w, Sums);
    }
    std::memcpy(a.acc + c, &acc, sizeof acc);
  }
  for (; c < a.channels; ++c) {
    int32_t acc = 0;
    for (int64_t tap = 0; tap < a.taps; ++tap) {
      acc += (int32_t{a.x[tap][c]} - a.middle) * a.w[tap * a.channels + c];
    }
    a.acc[c] = acc;
  }
}

}  // namespace
}  // namespace qtool
