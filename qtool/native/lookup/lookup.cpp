#include "lookup/lookup.h"

namespace qtool {
namespace {

bool always() noexcept { return true; }

#if defined(__x86_64__)
bool has_avx512vbmi() noexcept { return __builtin_cpu_supports("avx512vbmi"); }
#endif

const LookUpVariant kVariants[] = {
#define QTOOL_LOOKUP(isa, name, available) {#name, isa, available, name},
#include "lookup/kernels.inc"
#undef QTOOL_LOOKUP
};

LookUpKernel best() noexcept {
  for (const LookUpVariant& variant : kVariants) {
    if (allowed(variant.isa) && variant.available()) return variant.run;
  }
  return look_up_1__scalar;
}

}  // namespace

void look_up_1__scalar(const LookUpArgs& args) noexcept {
  for (int64_t row = 0; row < args.n_rows; ++row) {
    uint8_t* y = args.y + row * args.pitch;
    for (int64_t i = 0; i < args.n; ++i) y[i] = args.table[y[i]];
  }
}

void look_up(const LookUpArgs& args) noexcept {
  static const LookUpKernel kernel = best();
  kernel(args);
}

const LookUpVariant* look_up_variants() noexcept { return kVariants; }

int n_look_up_variants() noexcept { return int(sizeof(kVariants) / sizeof(*kVariants)); }

}  // namespace qtool
