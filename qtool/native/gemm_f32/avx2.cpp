#include "gemm_f32/tile.h"

namespace qtool {

const GemmF32Variant gemm_f32__avx2 = Tiles<8, 2, 6>::variant(Isa::kAvx2);

}  // namespace qtool
