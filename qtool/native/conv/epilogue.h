// From accumulators to what is stored: eq. 5 and 12 of docs/quantization.md.
//
//   float output:  y = float32(acc) * scale[o] (+ float_bias[o])
//   uint8 output:  q = clamp(round(float32(acc) * scale[o]) + y_zero_point, y_min, y_max)
//     and then     y = q,
//     or           y = table[q],
//     or           y = clamp(round((q - y_zero_point) * y_ratio + (r - residual_zero_point) *
//                                  residual_ratio) + sum_zero_point, sum_min, sum_max)
//
// All products and sums are single float32 operations; round is to the nearest, ties to even.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace qtool {

constexpr int kChannelPad = 64;  // bias, scale and float_bias have zeros up to a multiple of this

struct Epilogue {
  const int32_t* bias;
  const float* scale;       // x_scale * w_scale[o] / y_scale; of a float output without y_scale
  const float* float_bias;  // of a float output, or null
  int32_t y_zero_point, y_min, y_max;
  const uint8_t* table;  // (256,) or null

  bool has_residual;
  int32_t residual_zero_point, sum_zero_point, sum_min, sum_max;
  float y_ratio, residual_ratio;  // y_scale / sum_scale, residual_scale / sum_scale

  bool float_output;
};

// clamp(round(steps) + zero_point, low, high); NaN gives low. Clipping first changes nothing, for
// the bounds are integers, and keeps the conversion in range.
static inline int32_t saturate(float steps, int32_t zero_point, int32_t low, int32_t high) {
  const float above = std::max(float(low - zero_point), steps);
  return int32_t(std::lrint(std::min(float(high - zero_point), above))) + zero_point;
}

static inline float finish_float(const Epilogue& e, int32_t acc, int32_t o) {
  const float y = float(acc) * e.scale[o];
  return e.float_bias == nullptr ? y : y + e.float_bias[o];
}

static inline uint8_t finish(const Epilogue& e, int32_t acc, int32_t o, uint8_t residual) {
  const int32_t q = saturate(float(acc) * e.scale[o], e.y_zero_point, e.y_min, e.y_max);
  if (e.table != nullptr) return e.table[q];
  if (!e.has_residual) return uint8_t(q);
  const float own = float(q - e.y_zero_point) * e.y_ratio;
  const float other = float(int32_t{residual} - e.residual_zero_point) * e.residual_ratio;
  return uint8_t(saturate(own + other, e.sum_zero_point, e.sum_min, e.sum_max));
}

}  // namespace qtool
