#include "conv/pairs.h"

#include <algorithm>
#include <cstdlib>

namespace qtool {
namespace {

constexpr int kQuadBytes = kLanes * 4, kMostOfPair = 128;

bool fits(const int8_t* pair) noexcept {
  const int above = std::max<int>(pair[0], 0) + std::max<int>(pair[1], 0);
  const int below = std::min<int>(pair[0], 0) + std::min<int>(pair[1], 0);
  return above <= kMostOfPair && below >= -kMostOfPair;
}

bool quad_fits(const int8_t* quad) noexcept {
  for (int i = 0; i < kQuadBytes; i += 2) {
    if (!fits(quad + i)) return false;
  }
  return true;
}

// Only weights of one sign pass the limit together, and the excess is at most 126.
void take_excess(int8_t* quad, int8_t* excess) noexcept {
  for (int i = 0; i < kQuadBytes; i += 2) {
    const bool whole = fits(quad + i);
    const int sum = quad[i] + quad[i + 1];
    excess[i] = int8_t(whole ? 0 : sum > 0 ? sum - kMostOfPair : sum + kMostOfPair);
    excess[i + 1] = 0;
    quad[i] = int8_t(quad[i] - excess[i]);
  }
}

int64_t n_quads(const PackedConv& packed) noexcept {
  return int64_t{packed.plan.n_segments} * packed.segment_steps;
}

int64_t n_panels(const ConvArgs& a, const PackedConv& packed) noexcept {
  return int64_t{a.groups} * packed.n_panels;
}

size_t aligned(size_t bytes) noexcept { return (bytes + 63) / 64 * 64; }

size_t table_bytes(const ConvArgs& a, const PackedConv& packed, int64_t n_extra) noexcept {
  return aligned(size_t(n_panels(a, packed)) * sizeof(PanelExtra) + size_t(n_extra) * 4);
}

}  // namespace

int64_t count_extra(const ConvArgs& a, const PackedConv& packed) noexcept {
  int64_t n = 0;
  for (int64_t panel = 0; panel < n_panels(a, packed); ++panel) {
    const int8_t* w = packed.weights(panel);
    for (int64_t i = 0; i < n_quads(packed); ++i) n += quad_fits(w + i * kQuadBytes) ? 0 : 1;
  }
  return n;
}

size_t extra_bytes(const ConvArgs& a, const PackedConv& packed, int64_t n_extra) noexcept {
  return aligned(packed.bytes) - packed.bytes + table_bytes(a, packed, n_extra) +
         size_t(n_extra) * kQuadBytes;
}

void split_pairs(const ConvArgs& a, PackedConv& packed) noexcept {
  const int64_t n_extra = count_extra(a, packed);
  auto* base = reinterpret_cast<uint8_t*>(&packed);
  packed.extra_at = aligned(packed.bytes);
  packed.extra_offsets_at = packed.extra_at + size_t(n_panels(a, packed)) * sizeof(PanelExtra);
  packed.extra_weights_at = packed.extra_at + table_bytes(a, packed, n_extra);
  auto* panels = reinterpret_cast<PanelExtra*>(base + packed.extra_at);
  auto* offsets = reinterpret_cast<int32_t*>(base + packed.extra_offsets_at);
  auto* excess = reinterpret_cast<int8_t*>(base + packed.extra_weights_at);
  int32_t at = 0;
  for (int64_t panel = 0; panel < n_panels(a, packed); ++panel) {
    auto* w = const_cast<int8_t*>(packed.weights(panel));
    panels[panel].first = at;
    for (int64_t i = 0; i < n_quads(packed); ++i, w += kQuadBytes) {
      if (quad_fits(w)) continue;
      const int64_t segment = i / packed.segment_steps, quad = i % packed.segment_steps;
      offsets[at] = packed.offsets(panel / packed.n_panels)[segment] + int32_t(quad * 4);
      take_excess(w, excess + int64_t{at} * kQuadBytes);
      ++at;
    }
    panels[panel].n = at - panels[panel].first;
  }
}

}  // namespace qtool
