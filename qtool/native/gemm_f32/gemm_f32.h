// y[i][j] = bias[j] + sum over k of x[i][k] * w[k][j], float32; products and sums may be fused, and
// are taken in the order of k for any split of the rows, columns or depth.
//
// w is packed in panels of `panel` columns, [column / panel][k][panel], zeros beyond n.
#pragma once

#include <cstddef>
#include <cstdint>

#include "isa.h"

namespace qtool {

struct GemmF32Args {
  int64_t m, n, k;
  const float* x;  // (m, k), rows x_pitch apart
  int64_t x_pitch;
  const float* w;     // packed
  const float* bias;  // (n,) or null
  float* y;           // (m, n), rows y_pitch apart
  int64_t y_pitch;
  bool adds = false;  // to what is in y, instead of to bias
};

// y = (q - zero) * scale, for rows of a panel; zero and scale (panel,)
struct DequantizePanelArgs {
  const int8_t* q;  // (rows, panel); of 4 bits two rows in each: the low halves, then the high ones
  const float *zero, *scale;
  int64_t rows;
  float* y;  // (rows, panel)
  bool halves;
};

// y[c] = bias[c] + sum over taps of x[tap][c] * w[tap][c]: one pixel of a depthwise convolution
struct DepthwiseF32Args {
  const float* const* x;  // (taps,) of (channels,); null where it is outside the image
  int64_t taps, channels;
  const float* w;     // (taps, channels)
  const float* bias;  // (channels,) or null
  float* y;           // (channels,)
};

struct GemmF32Variant {
  Isa isa;
  int64_t panel;
  int64_t rows;  // of a tile
  void (*run)(const GemmF32Args&) noexcept;
  void (*dequantize)(const DequantizePanelArgs&) noexcept;
  void (*depthwise)(const DepthwiseF32Args&) noexcept;

  int64_t padded(int64_t n) const noexcept { return (n + panel - 1) / panel * panel; }

  size_t packed_bytes(int64_t n, int64_t k) const noexcept {
    return size_t(padded(n) * k) * sizeof(float);
  }

  // From w[j * column_step + i * row_step] for column j and depth i.
  void pack(const float* w, int64_t n, int64_t k, int64_t column_step, int64_t row_step,
            float* packed) const noexcept;
};

constexpr int64_t kMostPanelF32 = 64;

#define QTOOL_GEMM_F32(isa, name) extern const GemmF32Variant name;
#include "gemm_f32/kernels.inc"
#undef QTOOL_GEMM_F32

// The first of kernels.inc that may run at isa and below.
const GemmF32Variant& select_gemm_f32(Isa isa);

}  // namespace qtool
