#include "elementwise/loops.h"

namespace qtool {

const ElementwiseKernels elementwise__neon = elementwise(Isa::kNeon);

}  // namespace qtool
