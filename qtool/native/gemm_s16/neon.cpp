#include <arm_neon.h>

#include "gemm_s16/tile.h"

namespace qtool {
namespace {

struct Pairs {
  struct Vector {
    int32x4_t low, high;  // of accumulators; or, as int16, of pairs
  };
  static constexpr int kLanes = 8;
  static Vector zero() { return {vdupq_n_s32(0), vdupq_n_s32(0)}; }
  static Vector widened(const int8_t* from) {
    const int8x16_t bytes = vld1q_s8(from);
    return {vreinterpretq_s32_s16(vmovl_s8(vget_low_s8(bytes))),
            vreinterpretq_s32_s16(vmovl_s8(vget_high_s8(bytes)))};
  }
  static Vector broadcast(int32_t pair) { return {vdupq_n_s32(pair), vdupq_n_s32(pair)}; }
  static int32x4_t products(int32x4_t acc, int32x4_t a, int32x4_t b) {
    const int16x8_t x = vreinterpretq_s16_s32(a), w = vreinterpretq_s16_s32(b);
    const int32x4_t low = vmull_s16(vget_low_s16(x), vget_low_s16(w));
    const int32x4_t high = vmull_s16(vget_high_s16(x), vget_high_s16(w));
    return vaddq_s32(acc, vpaddq_s32(low, high));
  }
  static Vector add_products(Vector acc, Vector a, Vector b) {
    return {products(acc.low, a.low, b.low), products(acc.high, a.high, b.high)};
  }
  static void store(int32_t* to, Vector v) {
    vst1q_s32(to, v.low);
    vst1q_s32(to + 4, v.high);
  }
};

}  // namespace

const GemmS16Variant gemm_s16__neon = {
    Isa::kNeon,         TilesS16<Pairs, 4>::run, finish,
    depthwise<uint8_t>, depthwise<uint16_t>,     depthwise<int16_t>};

}  // namespace qtool
