// Convolution by register tiles: variants of ConvVariant made from gemm/tile.h's kernels.
#pragma once

#include "conv/packed.h"

namespace qtool {

size_t tiled_scratch_bytes(const ConvPlan& plan) noexcept;

void run_tiled(const ConvCall& call, int64_t begin, int64_t end,
               const GemmTileKernels& kernels) noexcept;

}  // namespace qtool
