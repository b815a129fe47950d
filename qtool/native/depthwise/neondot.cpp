// Depthwise with sdot.
#include "depthwise/neon_line.h"

namespace qtool {

const DepthwiseKernels kDepthwiseNeonDot = sixteen<SignedDot>();

}  // namespace qtool
