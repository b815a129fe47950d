// Depthwise for 16 channels in vectors of 4. For files compiled for NEON only; everything here has
// internal linkage.
#pragma once

#include "depthwise/line.h"
#include "gemm/neon_dot.h"
#include "gemm/neon_epilogue.h"

namespace qtool {
namespace {

// What is neither bytes alone: as matrix products do, whose order of channels is the same.
[[gnu::noinline]] static void store_any(const DepthwiseLine& l, const VectorEpilogue& v,
                                        const int32x4_t* sums, int32_t output) noexcept {
  GemmTile t = tile_of(l);
  t.scale = l.scale;
  store_block(t, v, sums, 0, output);
}

// Dot: as in gemm/neon_dot.h.
template <class Dot>
struct Sixteen {
  using Vector = int32x4_t;
  static constexpr int kVectorLanes = 4, kWeightBytes = 16;

  static Vector load(const void* p) {
    return vreinterpretq_s32_u8(vld1q_u8(static_cast<const uint8_t*>(p)));
  }

  static Vector dot(Vector sum, Vector taps, const int8_t* w) {
    return Dot::plus(sum, vld1q_s8(w), Dot::taken(vreinterpretq_u8_s32(taps)));
  }

  static void interleave(Vector* t) {
    const uint8x16_t a = vreinterpretq_u8_s32(t[0]), b = vreinterpretq_u8_s32(t[1]);
    const uint8x16_t c = vreinterpretq_u8_s32(t[2]), d = vreinterpretq_u8_s32(t[3]);
    const uint16x8_t ab_low = vreinterpretq_u16_u8(vzip1q_u8(a, b));
    const uint16x8_t ab_high = vreinterpretq_u16_u8(vzip2q_u8(a, b));
    const uint16x8_t cd_low = vreinterpretq_u16_u8(vzip1q_u8(c, d));
    const uint16x8_t cd_high = vreinterpretq_u16_u8(vzip2q_u8(c, d));
    t[0] = vreinterpretq_s32_u16(vzip1q_u16(ab_low, cd_low));
    t[1] = vreinterpretq_s32_u16(vzip2q_u16(ab_low, cd_low));
    t[2] = vreinterpretq_s32_u16(vzip1q_u16(ab_high, cd_high));
    t[3] = vreinterpretq_s32_u16(vzip2q_u16(ab_high, cd_high));
  }

  template <bool plain>
  struct Store {
    explicit Store(const DepthwiseLine& l)
        : v(*l.epilogue), by_bytes(!l.epilogue->float_output && !l.epilogue->has_residual) {}

    [[gnu::always_inline]] void operator()(const DepthwiseLine& l, const Vector* sums,
                                           int32_t output) const {
      if (!plain && !by_bytes) {
        store_any(l, v, sums, output);
        return;
      }
      Vector q[kVectors];
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j) q[j] = steps(sums[j], vld1q_f32(l.scale + 4 * j));
      store_bytes(l.y + output * l.y_pitch, pack_steps(v, q), l.channels);
    }

    VectorEpilogue v;
    bool by_bytes;
  };
};

template <class Dot>
constexpr DepthwiseKernels sixteen() {
  using V = Sixteen<Dot>;
  return {kLanes,
          false,
          {},
          {depthwise_line<V, 1>, depthwise_line<V, 2>, depthwise_line<V, 3>, depthwise_line<V, 4>},
          Dot::kSigned};
}

}  // namespace
}  // namespace qtool
