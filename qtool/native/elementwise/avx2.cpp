#include "elementwise/loops.h"

namespace qtool {

const ElementwiseKernels elementwise__avx2 = elementwise(Isa::kAvx2);

}  // namespace qtool
