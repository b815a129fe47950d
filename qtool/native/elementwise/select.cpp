#include "elementwise/kernels.h"

namespace qtool {
namespace {

const ElementwiseKernels* const kVariants[] = {
#define QTOOL_ELEMENTWISE(isa, name) &name,
#include "elementwise/kernels.inc"
#undef QTOOL_ELEMENTWISE
};

}  // namespace

const ElementwiseKernels& select_elementwise(Isa isa) {
  for (const ElementwiseKernels* variant : kVariants) {
    if (variant->isa <= isa && allowed(variant->isa)) return *variant;
  }
  return elementwise__scalar;
}

}  // namespace qtool
