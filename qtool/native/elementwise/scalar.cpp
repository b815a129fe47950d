#include "elementwise/loops.h"

namespace qtool {

const ElementwiseKernels elementwise__scalar = elementwise(Isa::kScalar);

}  // namespace qtool
