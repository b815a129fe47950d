#include "conv/tiled.h"

#include <algorithm>

#include "conv/pairs.h"
#include "lookup/lookup.h"

namespace qtool {
namespace {

// The tiles of one block and one panel: as few as possible, of sizes as equal as possible.
void run_panel(const ConvCall& call, const PackedConv& packed, const ConvBlock& block,
               const uint8_t* const* windows, int64_t panel, const GemmTileKernels& kernels,
               bool fetches) noexcept {
  const GemmTile all = tiled_panel(call, packed, panel);
  const int nr = (all.channels + kLanes - 1) / kLanes, most = kernels.rows[nr - 1];
  const int n_tiles = (block.n_pixels + most - 1) / most;
  const auto weights = reinterpret_cast<uintptr_t>(all.w);
  const int64_t lines = all.quads / 4 * int64_t{all.n_segments} * 2;  // that a tile fetches
  GemmTile t = all;
  int at = 0;
  for (int i = 0; i < n_tiles; ++i) {
    const int mr = (block.n_pixels - at + n_tiles - i - 1) / (n_tiles - i);
    const int64_t pixel = block.first_pixel + at;
    t.x = windows + at;
    const bool fetching = fetches && i * lines * 64 < int64_t(packed.panel_bytes);
    t.next = fetching ? weights + packed.panel_bytes + uintptr_t(i * lines * 64) : weights;
    t.next_step = fetching ? 128 : 0;
    t.y = all.y + pixel * t.y_pitch;
    if (all.residual != nullptr) t.residual = all.residual + pixel * t.residual_pitch;
    kernels.kernels[nr - 1][mr - 1](t);
    if (t.epilogue->table != nullptr) {
      look_up({t.epilogue->table, t.y, mr, t.channels, t.y_pitch});
    }
    at += mr;
  }
}

size_t windows_at(const ConvPlan& plan) noexcept {
  return (plan.copy_bytes + kOverread + 63) / 64 * 64;
}

void list_windows(const ConvPlan& plan, const ConvBlock& block, const uint8_t** windows) noexcept {
  const int32_t line = block.n_pixels / block.n_lines;
  for (int32_t j = 0; j < block.n_lines; ++j) {
    const uint8_t* x = block.x + j * block.line_step;
    for (int32_t i = 0; i < line; ++i) *windows++ = x + i * plan.step;
  }
}

void add_extra(const PackedConv& packed, int64_t panel, GemmTile& t) noexcept {
  const uint8_t* base = packed.base();
  const auto& extra = reinterpret_cast<const PanelExtra*>(base + packed.extra_at)[panel];
  t.n_extra = extra.n;
  t.extra_offsets = reinterpret_cast<const int32_t*>(base + packed.extra_offsets_at) + extra.first;
  t.extra_w = reinterpret_cast<const int8_t*>(base + packed.extra_weights_at) +
              int64_t{extra.first} * kLanes * 4;
}

}  // namespace

size_t tiled_scratch_bytes(const ConvPlan& plan) noexcept {
  return windows_at(plan) + size_t(plan.block_pixels()) * sizeof(void*);
}

GemmTile tiled_panel(const ConvCall& call, const PackedConv& packed, int64_t panel) noexcept {
  const ConvArgs& a = *call.args;
  const int64_t group = panel / packed.n_panels, in_group = panel % packed.n_panels;
  const int64_t first = group * packed.plan.group_out + in_group * packed.panel_blocks * kLanes;
  const int64_t item = a.epilogue.float_output ? 4 : 1;
  const int32_t* constants = packed.constants(panel);
  GemmTile t{};
  t.offsets = packed.offsets(group);
  t.n_segments = packed.plan.n_segments;
  t.quads = packed.segment_steps * packed.depth_step / 4;
  t.w = packed.weights(panel);
  if (packed.extra_at != 0) add_extra(packed, panel, t);
  t.bias = constants;
  t.scale = reinterpret_cast<const float*>(constants + kPanelChannels);
  t.float_bias = a.epilogue.float_bias == nullptr ? nullptr : t.scale + kPanelChannels;
  t.epilogue = &a.epilogue;
  t.bounded = packed.bounded;
  t.channels = packed.channels(panel);
  t.y = static_cast<uint8_t*>(call.y) + first * item;
  t.y_pitch = a.y_pitch * item;
  if (call.residual != nullptr) t.residual = call.residual + first;
  t.residual_pitch = a.residual_pitch;
  return t;
}

void run_tiled(const ConvCall& call, int64_t begin, int64_t end,
               const GemmTileKernels& kernels) noexcept {
  const auto& packed = *reinterpret_cast<const PackedConv*>(call.packed);
  const int64_t panels = int64_t{call.args->groups} * packed.n_panels;
  const int64_t all = packed.n_units(*call.args);
  auto** windows = reinterpret_cast<const uint8_t**>(call.scratch + windows_at(packed.plan));
  ConvBlock block{};
  for (int64_t unit = begin; unit < end; ++unit) {
    if (unit == begin || unit % panels == 0) {
      block = open_block(call, packed.plan, unit / panels, call.scratch);
      list_windows(packed.plan, block, windows);
    }
    // Weights come from memory once, each panel's while the one before multiplies, and the next
    // op's first, which lie behind; then they are in some cache.
    const bool last = unit + 1 == end, first_block = unit / panels == begin / panels;
    const bool fetches = last ? end == all : first_block;
    run_panel(call, packed, block, windows, unit % panels, kernels, fetches);
  }
}

}  // namespace qtool
