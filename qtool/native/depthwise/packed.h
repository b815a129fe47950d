// What pack() writes for the depthwise kernels: a header, where the taps of quads are, and for each
// block of channels its constants and weights.
#pragma once

#include "conv/plan.h"
#include "depthwise/depthwise.h"

namespace qtool {

struct DepthwiseTap {
  int32_t row, column;  // of the kernel
};

struct PackedDepthwise {
  ConvPlan plan;
  bool direct;              // x is read where it is, but for the ends of lines
  int32_t left, right;      // outputs whose windows begin left of x, or end right of it
  int32_t advance, pixels;  // outputs made together, and those of them that share a vector
  int32_t run, n_quads;
  int32_t channels, n_blocks, widest;  // channels times pixels, cut into blocks
  bool pairs, bounded, subtracts_128;
  size_t block_bytes, blocks_at, bytes;

  static PackedDepthwise layout(const ConvArgs& args, const DepthwiseKernels& kernels) noexcept;

  const DepthwiseTap* taps() const noexcept {  // (n_quads, 4)
    return reinterpret_cast<const DepthwiseTap*>(this + 1);
  }
  const int32_t* constants(int32_t block) const noexcept {
    return reinterpret_cast<const int32_t*>(reinterpret_cast<const uint8_t*>(this) + blocks_at +
                                            size_t(block) * block_bytes);
  }
  const int8_t* weights(int32_t block) const noexcept {
    return reinterpret_cast<const int8_t*>(constants(block) + kConstants);
  }
  int32_t channels_of(int32_t block) const noexcept {
    return channels - block * widest < widest ? channels - block * widest : widest;
  }

  // Bias and scale as interleaved, then bias, scale and float bias by channel.
  static constexpr int kConstants = 5 * kWideChannels;
};

void pack_depthwise(const ConvArgs& args, const PackedDepthwise& layout, uint8_t* packed) noexcept;

}  // namespace qtool
