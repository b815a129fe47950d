#include "elementwise/loops.h"

namespace qtool {

const ElementwiseKernels elementwise__avx512 = elementwise(Isa::kAvx512);

}  // namespace qtool
