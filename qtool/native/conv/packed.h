// What pack() writes, for kernels that take panels of channels: a header, the offsets of segments,
// and for each panel its bias, scales and weights.
//
// Weights of a panel are [depth / depth_step][channels / 16][depth_step / 4][16][4]: 64 bytes hold
// 16 channels of 4 deep. Each segment is padded to a multiple of depth_step, each panel to 16
// channels, with 0.
#pragma once

#include "conv/plan.h"
#include "gemm/tile.h"

namespace qtool {

constexpr int kPanelChannels = kMostBlocks * kLanes;

struct PackedConv {
  ConvPlan plan;
  int32_t depth_step;  // 4, or 64 for tiles
  int32_t panel_blocks;
  int32_t n_panels;                                     // of a group
  int32_t segment_steps;                                // of depth_step in each segment
  size_t constants_at, weights_at, panel_bytes, bytes;  // from the header
  bool bounded;  // no product of an accumulator and its scale comes near the ends of int32
  size_t extra_at, extra_offsets_at, extra_weights_at;  // pairs.h; 0 where there are none

  static PackedConv layout(const ConvArgs& args, const ConvPlan& plan, int32_t depth_step,
                           int32_t panel_blocks) noexcept;

  int64_t n_units(const ConvArgs& args) const noexcept {
    return plan.n_blocks * args.groups * n_panels;
  }
  const uint8_t* base() const noexcept { return reinterpret_cast<const uint8_t*>(this); }
  const int32_t* offsets(int64_t group) const noexcept {
    return reinterpret_cast<const int32_t*>(base() + sizeof(*this)) + group * plan.n_segments;
  }
  // 3 x kPanelChannels: bias, scale, float_bias.
  const int32_t* constants(int64_t panel) const noexcept {
    return reinterpret_cast<const int32_t*>(base() + constants_at) + panel * 3 * kPanelChannels;
  }
  const int8_t* weights(int64_t panel) const noexcept {
    return reinterpret_cast<const int8_t*>(base() + weights_at + size_t(panel) * panel_bytes);
  }
  // Channels of a panel of any group.
  int32_t channels(int64_t panel) const noexcept;
};

void pack_conv(const ConvArgs& args, const PackedConv& layout, uint8_t* packed) noexcept;

// Adds 128 sum w to the bias of each channel, for kernels that multiply x - 128. Panels are one
// block wide.
void add_128_sums(PackedConv& packed) noexcept;

}  // namespace qtool
