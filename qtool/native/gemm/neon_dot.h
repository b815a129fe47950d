// Ways to add 4 products to each of 4 sums, for files compiled for what they need; everything here
// has internal linkage.
//
// A Dot has: Sum, the sums of 4 channels; start(bias), finish(sum); X of 16 bytes of x, made by
// taken(bytes); add<lane>(sum, w, x), where w is [4 channels][4 deep] and x is 4 x 4 deep, of which
// lane counts; plus(sums, w, x), where x is [4 channels][4 deep] as well. kSigned: it multiplies x
// - 128, so packing adds 128 sum w to the bias.
#pragma once

#include <arm_neon.h>

namespace qtool {
namespace {

static inline int8x16_t less_128(uint8x16_t x) {
  return vreinterpretq_s8_u8(veorq_u8(x, vdupq_n_u8(128)));
}

// Every ARMv8: products are 16 bits wide, and sums of two of them go to two sums of a channel.
struct Products {
  static constexpr bool kSigned = true;
  struct Sum {
    int32x4_t low, high;
  };
  using X = int8x16_t;

  static Sum start(int32x4_t bias) {
    const int32x4_t zero = vdupq_n_s32(0);
    return {vzip1q_s32(bias, zero), vzip2q_s32(bias, zero)};
  }
  static int32x4_t finish(Sum sum) { return vpaddq_s32(sum.low, sum.high); }
  static X taken(uint8x16_t x) { return less_128(x); }
  template <int lane>
  static Sum add(Sum sum, int8x16_t w, X x) {
    return add(sum, w, vreinterpretq_s8_s32(vdupq_laneq_s32(vreinterpretq_s32_s8(x), lane)));
  }
  static Sum add(Sum sum, int8x16_t w, int8x16_t x) {
    return {vpadalq_s16(sum.low, vmull_s8(vget_low_s8(w), vget_low_s8(x))),
            vpadalq_s16(sum.high, vmull_high_s8(w, x))};
  }
  static int32x4_t plus(int32x4_t sum, int8x16_t w, X x) {
    const int32x4_t low = vpaddlq_s16(vmull_s8(vget_low_s8(w), vget_low_s8(x)));
    return vaddq_s32(sum, vpaddq_s32(low, vpaddlq_s16(vmull_high_s8(w, x))));
  }
};

#if defined(__ARM_FEATURE_DOTPROD)
struct SignedDot {
  static constexpr bool kSigned = true;
  using Sum = int32x4_t;
  using X = int8x16_t;

  static Sum start(int32x4_t bias) { return bias; }
  static int32x4_t finish(Sum sum) { return sum; }
  static X taken(uint8x16_t x) { return less_128(x); }
  template <int lane>
  static Sum add(Sum sum, int8x16_t w, X x) {
    return vdotq_laneq_s32(sum, w, x, lane);
  }
  static int32x4_t plus(int32x4_t sum, int8x16_t w, X x) { return vdotq_s32(sum, w, x); }
};
#endif

#if defined(__ARM_FEATURE_MATMUL_INT8)
struct MixedDot {
  static constexpr bool kSigned = false;
  using Sum = int32x4_t;
  using X = uint8x16_t;

  static Sum start(int32x4_t bias) { return bias; }
  static int32x4_t finish(Sum sum) { return sum; }
  static X taken(uint8x16_t x) { return x; }
  template <int lane>
  static Sum add(Sum sum, int8x16_t w, X x) {
    return vsudotq_laneq_s32(sum, w, x, lane);
  }
  static int32x4_t plus(int32x4_t sum, int8x16_t w, X x) { return vusdotq_s32(sum, x, w); }
};
#endif

}  // namespace
}  // namespace qtool
