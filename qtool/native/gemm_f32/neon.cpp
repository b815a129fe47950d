#include "gemm_f32/tile.h"

namespace qtool {

const GemmF32Variant gemm_f32__neon = Tiles<4, 4, 6>::variant(Isa::kNeon);

}  // namespace qtool
