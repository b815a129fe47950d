// y[i][o] = epilogue(bias[o] + sum over k of x[i][k] * w[k][o]) for a tile of mr pixels and nr * 16
// channels, whose accumulators stay in registers. All of the epilogue but its table.
//
// x[i] is given by where the window of pixel i begins and by segments at offsets from there. w is
// packed as [k / 4][channels of the panel / 16][16][4], so that 64 bytes hold 16 channels of 4
// deep.
#pragma once

#include <cstddef>
#include <cstdint>

#include "conv/epilogue.h"

namespace qtool {

constexpr int kLanes = 16;      // channels of a block of weights
constexpr int kMostBlocks = 4;  // blocks of a panel
constexpr int kMostRows = 14;   // pixels of a tile

struct GemmTile {
  const uint8_t* const* x;  // (mr,)
  const int32_t* offsets;   // (n_segments,)
  int32_t n_segments;
  int32_t quads;        // of depth in each segment; up to 3 bytes beyond it meet weights of 0
  const int8_t* w;      // (n_segments * quads, nr, 16, 4)
  uintptr_t next;       // weights to fetch meanwhile: two lines of 64 bytes each 4 quads, then
  uintptr_t next_step;  // the next two; 0 to fetch nothing new
  int32_t n_extra;      // quads once more with other weights, for kernels that split them
  const int32_t* extra_offsets;  // (n_extra,)
  const int8_t* extra_w;         // (n_extra, nr, 16, 4)
  const int32_t* bias;           // (nr * 16,)
  const float* scale;            // (nr * 16,)
  const float* float_bias;       // (nr * 16,) or null
  const Epilogue* epilogue;      // its pointers to channels are not used
  bool bounded;                  // no product of a sum and its scale comes near the ends of int32
  int32_t channels;              // of the panel, at most nr * 16: others are not stored
  uint8_t* y;                    // the first pixel's
  int64_t y_pitch;               // bytes
  const uint8_t* residual;
  int64_t residual_pitch;
};

using GemmTileKernel = void (*)(const GemmTile&) noexcept;

// kernels[nr - 1][mr - 1]; mr goes up to rows[nr - 1].
struct GemmTileKernels {
  bool adds_pairs;  // in 16 bits: weights need split_pairs() of conv/pairs.h
  int rows[kMostBlocks];
  GemmTileKernel kernels[kMostBlocks][kMostRows];
  bool subtracts_128 = false;  // from x: packing adds 128 sum w to the bias
};

extern const GemmTileKernels kGemmAvx512Vnni, kGemmAvxVnni, kGemmAvx2, kGemmNeon, kGemmNeonDot,
    kGemmNeonI8mm;

}  // namespace qtool
