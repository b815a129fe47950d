#include <arm_neon.h>

#include "histogram/one.h"

namespace qtool {
namespace {

constexpr size_t kLanes = 4;

// order[mask] moves the 16-bit lanes whose bit is set to the front, for tbl.
struct Compress {
  alignas(8) uint8_t order[16][8];

  constexpr Compress() : order() {
    for (int mask = 0; mask < 16; ++mask) {
      int kept = 0;
      for (int lane = 0; lane < 4; ++lane) {
        if ((mask >> lane & 1) == 0) continue;
        order[mask][2 * kept] = static_cast<uint8_t>(2 * lane);
        order[mask][2 * kept + 1] = static_cast<uint8_t>(2 * lane + 1);
        ++kept;
      }
    }
  }
};

constexpr Compress kCompress;

}  // namespace

void histogram_scan__neon(const float* x, size_t n, Extremes& extremes) noexcept {
  const uint32x4_t mask = vdupq_n_u32(0x7fffffff);
  uint32x4_t magnitude = vdupq_n_u32(extremes.magnitude);
  float32x4_t minimum = vdupq_n_f32(extremes.minimum), maximum = vdupq_n_f32(extremes.maximum);
  size_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const float32x4_t v = vld1q_f32(x + i);
    magnitude = vmaxq_u32(magnitude, vandq_u32(vreinterpretq_u32_f32(v), mask));
    minimum = vminq_f32(minimum, v);
    maximum = vmaxq_f32(maximum, v);
  }
  extremes = {vmaxvq_u32(magnitude), vminvq_f32(minimum), vmaxvq_f32(maximum)};
  for (; i < n; ++i) scan_one(x[i], extremes);
}

size_t histogram_bin__neon(const float* x, size_t n, float per_width, uint16_t* bins) noexcept {
  const uint32x4_t weights = {1, 2, 4, 8};
  uint16_t* out = bins;
  size_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const float32x4_t v = vld1q_f32(x + i);
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
  out += bin_rest(x + i, n - i, per_width, out);
  return static_cast<size_t>(out - bins);
}

}  // namespace qtool
