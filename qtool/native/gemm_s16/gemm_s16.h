// acc[i][j] = sum over k of x[i][k] * w[k][j], int16 times int8; wraps in int32.
//
// For what the int8 kernels do not take: weights with a zero point, two activations, zero points
// that are known at run time, activations of 16 bits. w is packed in panels of 16 columns, [column
// / 16][k / 2][16][2], zeros beyond n and k: what one multiply-add of pairs wants.
#pragma once

#include <cstddef>
#include <cstdint>

#include "isa.h"

namespace qtool {

constexpr int64_t kPanelS16 = 16;

struct GemmS16Args {
  int64_t m, k;      // k even
  const int16_t* x;  // (m, k), rows x_pitch apart
  int64_t x_pitch;
  const int8_t* w;  // one panel
  int32_t* acc;     // (m, kPanelS16)
};

// y[j] = clamp(round(real[j] * scale[j]) + zero_point, low, high) of a row of a panel
struct FinishS16Args {
  const float *real, *scale;  // (kPanelS16,)
  int32_t zero_point, low, high;
  int32_t* y;  // (kPanelS16,)
};

// acc[c] = sum over taps of (x[tap][c] - middle) * w[tap][c]: one pixel of a depthwise convolution
template <typename T>
struct DepthwiseS16Args {
  const T* const* x;  // (taps,) of (channels,)
  int64_t taps, channels;
  int32_t middle;
  const int16_t* w;  // (taps, channels)
  int32_t* acc;      // (channels,)
};

struct GemmS16Variant {
  Isa isa;
  void (*run)(const GemmS16Args&) noexcept;
  void (*finish)(const FinishS16Args&) noexcept;
  void (*depthwise_u8)(const DepthwiseS16Args<uint8_t>&) noexcept;
  void (*depthwise_u16)(const DepthwiseS16Args<uint16_t>&) noexcept;
  void (*depthwise_s16)(const DepthwiseS16Args<int16_t>&) noexcept;

  void depthwise(const DepthwiseS16Args<uint8_t>& args) const noexcept { depthwise_u8(args); }
  void depthwise(const DepthwiseS16Args<uint16_t>& args) const noexcept { depthwise_u16(args); }
  void depthwise(const DepthwiseS16Args<int16_t>& args) const noexcept { depthwise_s16(args); }
};

#define QTOOL_GEMM_S16(isa, name) extern const GemmS16Variant name;
#include "gemm_s16/kernels.inc"
#undef QTOOL_GEMM_S16

// The first of kernels.inc that may run at isa and below.
const GemmS16Variant& select_gemm_s16(Isa isa);

}  // namespace qtool
