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
  for (const ConvVariant* variant : kVariants) {
    if (variant->isa <= isa && allowed(variant->isa) && variant->supports(args)) return *variant;
  }
  return conv_any_1x1__scalar;
}

}  // namespace qtool
