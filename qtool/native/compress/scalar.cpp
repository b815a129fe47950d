#include "compress/kernels.h"

namespace qtool {
namespace {

constexpr AddScaledVariant kVariants[] = {
#if defined(__x86_64__) || defined(_M_X64)
    {Isa::kAvx2, add_scaled__avx2},
#endif
    {Isa::kScalar, add_scaled__scalar},
};

}  // namespace

void add_scaled__scalar(double* y, const double* x, double a, size_t n) noexcept {
  for (size_t i = 0; i < n; ++i) y[i] += a * x[i];
}

AddScaledKernel add_scaled() { return select(kVariants, "").add; }

}  // namespace qtool
