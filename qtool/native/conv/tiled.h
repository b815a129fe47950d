// Convolution by register tiles: variants of ConvVariant made from gemm/tile.h's kernels.
#pragma once

#include "conv/packed.h"

namespace qtool {

size_t tiled_scratch_bytes(const ConvPlan& plan) noexcept;

// What all tiles of a panel share. y and residual are those of pixel 0, residual null when absent.
GemmTile tiled_panel(const ConvCall& call, const PackedConv& packed, int64_t panel) noexcept;

void run_tiled(const ConvCall& call, int64_t begin, int64_t end,
               const GemmTileKernels& kernels) noexcept;

}  // namespace qtool
