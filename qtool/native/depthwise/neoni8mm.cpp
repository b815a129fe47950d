// Depthwise with usdot.
#include "depthwise/neon_line.h"

namespace qtool {

const DepthwiseKernels kDepthwiseNeonI8mm = sixteen<MixedDot>();

}  // namespace qtool
