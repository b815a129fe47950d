#include "conv/conv.h"

namespace qtool {
namespace {

const ConvVariant* const kVariants[] = {
#define QTOOL_CONV(name) &name,
#include "conv/kernels.inc"
#undef QTOOL_CONV
};

}  // namespace

const ConvVariant& select_conv(const ConvArgs& args, Isa isa) {
  const ConvVariant* best = &conv_any_1x1__scalar;
  for (const ConvVariant* variant : kVariants) {
    if (variant->isa > isa || !allowed(variant->isa)) continue;
    if (!variant->available() || !variant->supports(args)) continue;
    if (variant->cycles(args) < best->cycles(args)) best = variant;
  }
  return *best;
}

const ConvVariant* const* conv_variants() noexcept { return kVariants; }

int n_conv_variants() noexcept { return int(sizeof(kVariants) / sizeof(*kVariants)); }

}  // namespace qtool
