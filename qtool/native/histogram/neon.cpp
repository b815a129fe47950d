#include <arm_neon.h>

#include "histogram/compress.h"
#include "histogram/one.h"

namespace qtool {
namespace {

constexpr size_t kLanes = 4;

constexpr Compress<kLanes> kCompress;

}  // namespace

size_t histogram_bin__neon(const float* x, size_t n, float per_width, Extremes& extremes,
                           uint16_t* bins) noexcept {
  const uint32x4_t weights = {1, 2, 4, 8};
  int32x4_t highest = vdupq_n_s32(extremes.highest);
  uint32x4_t lowest = vdupq_n_u32(extremes.lowest), nearest = vdupq_n_u32(extremes.nearest);
  uint16_t* out = bins;
  size_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const float32x4_t v = vld1q_f32(x + i);
    highest = vmaxq_s32(highest, vreinterpretq_s32_f32(v));
    lowest = vmaxq_u32(lowest, vreinterpretq_u32_f32(v));
    nearest = vminq_u32(nearest, vreinterpretq_u32_f32(v));

    const float32x4_t scaled = vmulq_n_f32(v, per_width);
    // A negative product that underflowed to 0 belongs to bin -1: all ones, which is -1.
    const uint32x4_t lost = vandq_u32(vceqzq_f32(scaled), vcltzq_f32(v));
    const int32x4_t bin = vorrq_s32(vcvtmq_s32_f32(scaled), vreinterpretq_s32_u32(lost));
    const uint16x4_t packed = vqmovun_s32(vaddq_s32(bin, vdupq_n_s32(kBins)));
    const uint32_t counted = vaddvq_u32(vbicq_u32(weights, vceqzq_f32(v)));
    const uint8x8_t order = vld1_u8(kCompress.order[counted]);
    vst1_u8(reinterpret_cast<uint8_t*>(out), vtbl1_u8(vreinterpret_u8_u16(packed), order));
    out += __builtin_popcount(counted);
  }
  extremes = {vmaxvq_s32(highest), vmaxvq_u32(lowest), vminvq_u32(nearest)};
  out += bin_rest(x + i, n - i, per_width, extremes, out);
  return static_cast<size_t>(out - bins);
}

}  // namespace qtool
