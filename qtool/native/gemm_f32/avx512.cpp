#include "gemm_f32/tile.h"

namespace qtool {

const GemmF32Variant gemm_f32__avx512 = Tiles<16, 2, 12>::variant(Isa::kAvx512);

}  // namespace qtool
