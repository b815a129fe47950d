// Tiles of 6 pixels x 16 channels with sdot.
#include "gemm/neon_tile.h"

namespace qtool {

const GemmTileKernels kGemmNeonDot = {
    false,
    {6},
    {{tile<SignedDot, 1>, tile<SignedDot, 2>, tile<SignedDot, 3>, tile<SignedDot, 4>,
      tile<SignedDot, 5>, tile<SignedDot, 6>}},
    SignedDot::kSigned};

}  // namespace qtool
