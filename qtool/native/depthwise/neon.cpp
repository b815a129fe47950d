// Depthwise for any ARMv8.
#include "depthwise/neon_line.h"

namespace qtool {

const DepthwiseKernels kDepthwiseNeon = sixteen<Products>();

}  // namespace qtool
