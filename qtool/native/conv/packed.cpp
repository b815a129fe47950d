#include "conv/packed.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace qtool {
namespace {

template <typename T>
T ceil_div(T a, T b) {
  return (a + b - 1) / b;
}

size_t aligned(size_t bytes) { return ceil_div<size_t>(bytes, 64) * 64; }

// One output channel's weights into its lane of a panel.
void pack_channel(const PackedConv& layout, const int8_t* w, int32_t blocks, int32_t channel,
                  int8_t* panel) noexcept {
  const ConvPlan& p = layout.plan;
  const int64_t step_bytes = int64_t{layout.depth_step} * kLanes;
  int8_t* to = panel + channel / kLanes * step_bytes + channel % kLanes * 4;
  for (int32_t s = 0; s < p.n_segments; ++s) {
    for (int32_t k = 0; k < p.segment_bytes; k += layout.depth_step, to += blocks * step_bytes) {
      const int32_t n = std::min(layout.depth_step, p.segment_bytes - k);
      for (int32_t i = 0; i < n; i += 4, w += 4) {
        std::memcpy(to + i * kLanes, w, size_t(std::min(4, n - i)));
      }
      w -= (4 - n % 4) % 4;
    }
  }
}

void pack_constants(const Epilogue& e, int64_t first, int32_t channels, int32_t* to) noexcept {
  const size_t bytes = size_t(channels) * 4;
  std::memcpy(to, e.bias + first, bytes);
  std::memcpy(to + kPanelChannels, e.scale + first, bytes);
  if (e.float_bias != nullptr) std::memcpy(to + 2 * kPanelChannels, e.float_bias + first, bytes);
}

// Whether float32(acc) * scale, and the sum with a residual, are below 2^30 for any input.
bool is_bounded(const ConvArgs& a) noexcept {
  const Epilogue& e = a.epilogue;
  const double limit = 0x1p30;
  const double ratios = std::abs(double(e.y_ratio)) + std::abs(double(e.residual_ratio));
  if (e.has_residual && !(256 * ratios < limit)) return false;
  for (int32_t o = 0; o < a.out_c; ++o) {
    const int8_t* w = a.w + int64_t{o} * a.depth();
    int64_t sum = 0;
    for (int32_t k = 0; k < a.depth(); ++k) sum += w[k] < 0 ? -w[k] : w[k];
    const double most = std::min(255.0 * double(sum) + std::abs(double(e.bias[o])), 0x1p31);
    if (!(most * std::abs(double(e.scale[o])) < limit)) return false;
  }
  return true;
}

}  // namespace

PackedConv PackedConv::layout(const ConvArgs& a, const ConvPlan& plan, int32_t depth_step,
                              int32_t panel_blocks) noexcept {
  PackedConv l{};
  l.plan = plan;
  l.depth_step = depth_step;
  l.panel_blocks = std::min(panel_blocks, ceil_div(plan.group_out, int32_t{kLanes}));
  l.n_panels = ceil_div(plan.group_out, l.panel_blocks * kLanes);
  l.segment_steps = ceil_div(plan.segment_bytes, depth_step);
  const size_t panels = size_t(a.groups) * size_t(l.n_panels);
  const size_t depth = size_t(l.segment_steps) * size_t(depth_step) * size_t(plan.n_segments);
  l.constants_at = aligned(sizeof(l) + size_t(a.groups) * size_t(plan.n_segments) * 4);
  l.weights_at = aligned(l.constants_at + panels * 3 * kPanelChannels * 4);
  l.panel_bytes = depth * size_t(l.panel_blocks) * kLanes;
  l.bytes = l.weights_at + panels * l.panel_bytes;
  return l;
}

int32_t PackedConv::channels(int64_t panel) const noexcept {
  const int32_t first = int32_t(panel % n_panels) * panel_blocks * kLanes;
  return std::min(panel_blocks * kLanes, plan.group_out - first);
}

void pack_conv(const ConvArgs& a, const PackedConv& l, uint8_t* packed) noexcept {
  std::memcpy(packed, &l, sizeof(l));
  auto& self = *reinterpret_cast<PackedConv*>(packed);
  self.bounded = is_bounded(a);
  for (int32_t group = 0; group < a.groups; ++group) {
    auto* offsets = const_cast<int32_t*>(self.offsets(group));
    for (int32_t s = 0; s < l.plan.n_segments; ++s) {
      offsets[s] = int32_t(l.plan.offset(a, s)) + group * l.plan.group_in;
    }
  }
  for (int64_t panel = 0; panel < int64_t{a.groups} * l.n_panels; ++panel) {
    const int32_t channels = l.channels(panel), blocks = ceil_div(channels, int32_t{kLanes});
    const int64_t first =
        panel / l.n_panels * l.plan.group_out + panel % l.n_panels * l.panel_blocks * kLanes;
    pack_constants(a.epilogue, first, channels, const_cast<int32_t*>(self.constants(panel)));
    for (int32_t c = 0; c < channels; ++c) {
      pack_channel(l, a.w + (first + c) * a.depth(), blocks, c,
                   const_cast<int8_t*>(self.weights(panel)));
    }
  }
}

void add_128_sums(PackedConv& packed) noexcept {
  for (size_t at = packed.weights_at; at < packed.bytes; at += packed.panel_bytes) {
    const auto panel = int64_t((at - packed.weights_at) / packed.panel_bytes);
    auto* bias = const_cast<int32_t*>(packed.constants(panel));
    const int8_t* w = packed.weights(panel);
    for (size_t i = 0; i < packed.panel_bytes; ++i) {
      int32_t& sum = bias[i / 4 % kLanes];
      sum = int32_t(uint32_t(sum) + 128u * uint32_t(int32_t{w[i]}));
    }
  }
}

}  // namespace qtool
