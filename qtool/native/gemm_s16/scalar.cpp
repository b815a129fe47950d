#include "gemm_s16/finish.h"

namespace qtool {
namespace {

void run(const GemmS16Args& a) noexcept {
  for (int64_t i = 0; i < a.m; ++i) {
    for (int64_t j = 0; j < kPanelS16; ++j) {
      uint32_t acc = 0;
      for (int64_t k = 0; k < a.k; ++k) {
        const int32_t w = a.w[k / 2 * kPanelS16 * 2 + j * 2 + k % 2];
        acc += uint32_t(int32_t{a.x[i * a.x_pitch + k]} * w);
      }
      a.acc[i * kPanelS16 + j] = int32_t(acc);
    }
  }
}

}  // namespace

const GemmS16Variant gemm_s16__scalar = {
    Isa::kScalar, run, finish, depthwise<uint8_t>, depthwise<uint16_t>, depthwise<int16_t>};

}  // namespace qtool
