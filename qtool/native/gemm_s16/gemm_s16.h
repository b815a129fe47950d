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

struct GemmS16Variant {
  Isa isa;
  void (*run)(const GemmS16Args&) noexcept;
  void (*finish)(const FinishS16Args&) noexcept;
};

#define QTOOL_GEMM_S16(isa, name) extern const GemmS16Variant name;
#include "gemm_s16/kernels.inc"
#undef QTOOL_GEMM_S16

// The first of kernels.inc that may run at isa and below.
const GemmS16Variant& select_gemm_s16(Isa isa);

}  // namespace qtool
