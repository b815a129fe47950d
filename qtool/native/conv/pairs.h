// Weights for kernels that add two products in 16 bits, such as vpmaddubsw: x[0] * w[0] + x[1] *
// w[1] with x up to 255 fits as long as positive weights of a pair sum to 128 at most, negative
// ones to -128 at least. Where they do not, the excess goes to an extra quad of the panel, so that
//
//   sum over quads of x * w = sum over quads of x * (w - excess) + sum over extra quads of x *
//   excess
//
// and both fit. Weights of real networks are mostly small: few quads need an extra one.
#pragma once

#include "conv/packed.h"

namespace qtool {

struct PanelExtra {
  int32_t n, first;
};

// How many quads of 16 channels have a pair that does not fit. Panels are one block wide.
int64_t count_extra(const ConvArgs& args, const PackedConv& packed) noexcept;

// The bytes that split_pairs() needs behind packed.bytes.
size_t extra_bytes(const ConvArgs& args, const PackedConv& packed, int64_t n_extra) noexcept;

void split_pairs(const ConvArgs& args, PackedConv& packed) noexcept;

}  // namespace qtool
