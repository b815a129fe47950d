// Tiles of 3 pixels x 16 channels for any ARMv8.
#include "gemm/neon_tile.h"

namespace qtool {

const GemmTileKernels kGemmNeon = {
    false, {3}, {{tile<Products, 1>, tile<Products, 2>, tile<Products, 3>}}, Products::kSigned};

}  // namespace qtool
