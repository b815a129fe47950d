#include "gemm_f32/gemm_f32.h"

#include <algorithm>

namespace qtool {
namespace {

const GemmF32Variant* const kVariants[] = {
#define QTOOL_GEMM_F32(isa, name) &name,
#include "gemm_f32/kernels.inc"
#undef QTOOL_GEMM_F32
};

}  // namespace

const GemmF32Variant& select_gemm_f32(Isa isa) {
  for (const GemmF32Variant* variant : kVariants) {
    if (variant->isa <= isa && allowed(variant->isa)) return *variant;
  }
  return gemm_f32__scalar;
}

void GemmF32Variant::pack(const float* w, int64_t n, int64_t k, int64_t column_step,
                          int64_t row_step, float* packed) const noexcept {
  for (int64_t first = 0; first < n; first += panel) {
    const int64_t some = std::min(panel, n - first);
    for (int64_t i = 0; i < k; ++i, packed += panel) {
      const float* from = w + first * column_step + i * row_step;
      for (int64_t j = 0; j < some; ++j) packed[j] = from[j * column_step];
      std::fill(packed + some, packed + panel, 0.0f);
    }
  }
}

}  // namespace qtool
