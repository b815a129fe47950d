// Lines of the output cut into tiles of pixels, for AMX. For files compiled for AMX only;
// everything here has internal linkage.
#pragma once

#include "conv/packed.h"

namespace qtool {
namespace {

constexpr int kRows = 16, kDepth = 64;

// Pixels in a row of tiles: where they are, and which of y they make.
struct PixelTile {
  const uint8_t* x;
  int64_t pixel;
  int32_t skip;  // rows that the tile before makes too
};

// What a tile costs grows with its rows, so a line is cut into tiles of equal height.
static inline int32_t tile_rows(int32_t line) noexcept {
  const int32_t n = (line + kRows - 1) / kRows;
  return (line + n - 1) / n;
}

// Writes where the tiles of a block are; returns how many.
static inline int32_t list_tiles(const ConvPlan& plan, const ConvBlock& block,
                                 PixelTile* tiles) noexcept {
  const int32_t line = block.n_pixels / block.n_lines, rows = tile_rows(line);
  int32_t n = 0;
  for (int32_t j = 0; j < block.n_lines; ++j) {
    for (int32_t begin = 0; begin < line; begin += rows) {
      const int32_t at = begin < line - rows ? begin : line - rows;
      tiles[n++] = {block.x + j * block.line_step + at * plan.step,
                    block.first_pixel + int64_t{j} * line + at, begin - at};
    }
  }
  return n;
}

// Where the list lies in scratch memory.
static inline size_t tiles_at(const ConvPlan& plan) noexcept {
  return (plan.copy_bytes + kOverread + 63) / 64 * 64;
}

static inline size_t tiles_scratch_bytes(const ConvPlan& plan) noexcept {
  return tiles_at(plan) + size_t(plan.block_pixels()) * sizeof(PixelTile);
}

// The variant whose packed form is as layout says, and whose scratch memory ends with a list of
// tiles.
template <PackedConv (*layout)(const ConvArgs&) noexcept>
constexpr ConvVariant tile_variant(const char* name, decltype(ConvVariant::available) available,
                                   decltype(ConvVariant::supports) supports,
                                   decltype(ConvVariant::cycles) cycles,
                                   decltype(ConvVariant::run) run) {
  return {name,
          Isa::kAmx,
          available,
          supports,
          [](const ConvArgs& a) noexcept { return layout(a).bytes; },
          [](const ConvArgs& a, uint8_t* packed) noexcept { pack_conv(a, layout(a), packed); },
          [](const ConvArgs& a) noexcept { return tiles_scratch_bytes(layout(a).plan); },
          [](const ConvArgs& a) noexcept { return layout(a).n_units(a); },
          cycles,
          run};
}

}  // namespace
}  // namespace qtool
