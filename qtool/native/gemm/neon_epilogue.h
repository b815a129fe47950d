// The epilogue on vectors of 4 accumulators. For files compiled for NEON only; everything here has
// internal linkage.
#pragma once

#include <arm_neon.h>

#include <cstring>

#include "gemm/tile.h"

namespace qtool {
namespace {

constexpr int kQuarters = kLanes / 4;  // vectors of a block of channels

// What all pixels of a tile share.
struct VectorEpilogue {
  explicit VectorEpilogue(const Epilogue& e)
      : zero_point(vdupq_n_s16(int16_t(e.has_residual ? e.sum_zero_point : e.y_zero_point))),
        low(vdupq_n_u8(uint8_t(e.has_residual ? e.sum_min : e.y_min))),
        high(vdupq_n_u8(uint8_t(e.has_residual ? e.sum_max : e.y_max))),
        y_top(vdupq_n_f32(float(e.y_max - e.y_zero_point))),
        y_bottom(vdupq_n_f32(float(e.y_min - e.y_zero_point))),
        sum_bottom(vdupq_n_f32(float(e.sum_min - e.sum_zero_point))),
        y_ratio(vdupq_n_f32(e.y_ratio)),
        residual_ratio(vdupq_n_f32(e.residual_ratio)),
        residual_zero(vdupq_n_s32(e.residual_zero_point)) {}

  int16x8_t zero_point;
  uint8x16_t low, high;  // of what is stored
  float32x4_t y_top, y_bottom, sum_bottom, y_ratio, residual_ratio;
  int32x4_t residual_zero;
};

// Rounded to the nearest, ties to even; what no int32 holds saturates, as packing then does.
static inline int32x4_t steps(int32x4_t acc, float32x4_t scale) {
  return vcvtnq_s32_f32(vmulq_f32(vcvtq_f32_s32(acc), scale));
}

static inline int32x4_t steps_of_sum(const VectorEpilogue& v, int32x4_t acc, float32x4_t scale,
                                     uint16x4_t residual) {
  const float32x4_t whole = vrndnq_f32(vmulq_f32(vcvtq_f32_s32(acc), scale));
  const float32x4_t y = vmaxq_f32(vminq_f32(whole, v.y_top), v.y_bottom);
  const int32x4_t r = vsubq_s32(vreinterpretq_s32_u32(vmovl_u16(residual)), v.residual_zero);
  const float32x4_t sum =
      vaddq_f32(vmulq_f32(y, v.y_ratio), vmulq_f32(vcvtq_f32_s32(r), v.residual_ratio));
  return vcvtnq_s32_f32(vmaxnmq_f32(sum, v.sum_bottom));  // NaN gives the least
}

// 4 x 4 steps -> 16 bytes in order, zero point added, clamped.
static inline uint8x16_t pack_steps(const VectorEpilogue& v, const int32x4_t* q) {
  const int16x8_t ab = vqmovn_high_s32(vqmovn_s32(q[0]), q[1]);
  const int16x8_t cd = vqmovn_high_s32(vqmovn_s32(q[2]), q[3]);
  const uint8x16_t bytes =
      vqmovun_high_s16(vqmovun_s16(vqaddq_s16(ab, v.zero_point)), vqaddq_s16(cd, v.zero_point));
  return vmaxq_u8(vminq_u8(bytes, v.high), v.low);
}

static inline void store_floats(const GemmTile& t, const int32x4_t* acc, int first, float* y) {
  float values[kLanes];
#pragma GCC unroll 4
  for (int j = 0; j < kQuarters; ++j) {
    const int at = first + 4 * j;
    float32x4_t real = vmulq_f32(vcvtq_f32_s32(acc[j]), vld1q_f32(t.scale + at));
    if (t.float_bias != nullptr) real = vaddq_f32(real, vld1q_f32(t.float_bias + at));
    vst1q_f32(values + 4 * j, real);
  }
  const int32_t n = t.channels - first;
  std::memcpy(y + first, values, size_t(n < kLanes ? n : kLanes) * sizeof(float));
}

static inline uint8x16_t load_bytes(const uint8_t* p, int32_t n) {
  if (n >= kLanes) return vld1q_u8(p);
  uint8_t bytes[kLanes] = {};
  std::memcpy(bytes, p, size_t(n));
  return vld1q_u8(bytes);
}

static inline void store_bytes(uint8_t* y, uint8x16_t bytes, int32_t n) {
  if (n >= kLanes) {
    vst1q_u8(y, bytes);
    return;
  }
  uint8_t values[kLanes];
  vst1q_u8(values, bytes);
  std::memcpy(y, values, size_t(n));
}

// One pixel of 16 channels from first on, whatever the epilogue.
static inline void store_block(const GemmTile& t, const VectorEpilogue& v, const int32x4_t* acc,
                               int first, int row) {
  const Epilogue& e = *t.epilogue;
  uint8_t* y = t.y + row * t.y_pitch;
  if (e.float_output) {
    store_floats(t, acc, first, reinterpret_cast<float*>(y));
    return;
  }
  const int32_t n = t.channels - first;
  int32x4_t q[kQuarters];
  if (e.has_residual) {
    const uint8x16_t r = load_bytes(t.residual + row * t.residual_pitch + first, n);
    const uint16x8_t low = vmovl_u8(vget_low_u8(r)), high = vmovl_high_u8(r);
    const uint16x4_t parts[] = {vget_low_u16(low), vget_high_u16(low), vget_low_u16(high),
                                vget_high_u16(high)};
#pragma GCC unroll 4
    for (int j = 0; j < kQuarters; ++j) {
      q[j] = steps_of_sum(v, acc[j], vld1q_f32(t.scale + first + 4 * j), parts[j]);
    }
  } else {
#pragma GCC unroll 4
    for (int j = 0; j < kQuarters; ++j) {
      q[j] = steps(acc[j], vld1q_f32(t.scale + first + 4 * j));
    }
  }
  store_bytes(y + first, pack_steps(v, q), n);
}

}  // namespace
}  // namespace qtool
