// Tiles of 6 pixels x 16 channels with sudot.
#include "gemm/neon_tile.h"

namespace qtool {

const GemmTileKernels kGemmNeonI8mm = {false,
                                       {6},
                                       {{tile<MixedDot, 1>, tile<MixedDot, 2>, tile<MixedDot, 3>,
                                         tile<MixedDot, 4>, tile<MixedDot, 5>, tile<MixedDot, 6>}},
                                       MixedDot::kSigned};

}  // namespace qtool
