#include "gemm_f32/tile.h"

namespace qtool {

const GemmF32Variant gemm_f32__scalar = Tiles<4, 2, 4>::variant(Isa::kScalar);

}  // namespace qtool
