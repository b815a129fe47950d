#include "gemm_s16/gemm_s16.h"

namespace qtool {
namespace {

const GemmS16Variant* const kVariants[] = {
#define QTOOL_GEMM_S16(isa, name) &name,
#include "gemm_s16/kernels.inc"
#undef QTOOL_GEMM_S16
};

}  // namespace

const GemmS16Variant& select_gemm_s16(Isa isa) {
  for (const GemmS16Variant* variant : kVariants) {
    if (variant->isa <= isa && allowed(variant->isa)) return *variant;
  }
  return gemm_s16__scalar;
}

}  // namespace qtool
