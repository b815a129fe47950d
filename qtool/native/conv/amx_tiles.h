// Products of AMX tiles, and the epilogue that runs between their steps. For files compiled for AMX
// only; everything here has internal linkage.
#pragma once

#include <immintrin.h>

#include "conv/amx_lines.h"
#include "gemm/avx512_epilogue.h"
#include "lookup/lookup.h"

namespace qtool {
namespace {

constexpr int kPanelBlocks = 2;
constexpr int kRowSums = kPanelBlocks * kLanes;

struct [[gnu::packed]] TileConfig {
  uint8_t palette = 1, start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};

// Tiles 0 .. 3 are sums, 4 and 5 x, 6 and 7 w.
static inline void configure_tiles(int rows) noexcept {
  TileConfig config;
  for (int tile = 0; tile < 8; ++tile) {
    config.row_bytes[tile] = 64;
    config.rows[tile] = uint8_t(tile < 6 ? rows : 16);
  }
  asm volatile("" ::: "memory");  // GCC 12's _tile_loadconfig declares the first 8 bytes only
  _tile_loadconfig(&config);
}

// What all products of a panel share.
struct TilePanel {
  GemmTile tile;       // y and residual are those of pixel 0
  int64_t x_step;      // from one pixel's window to the next
  int32_t rows;        // of a tile of pixels
  int32_t steps;       // of kDepth in a segment
  __mmask32 mask;      // the channels to store
  const int8_t* next;  // weights to fetch meanwhile
  int32_t next_lines;  // of 64 bytes, in each step
};

// One product's sums, which wait to be stored: two rows at a time, from two tiles or from both
// halves of one. Tiles multiply without the vector units, so this runs between the next steps.
template <bool adds, bool bounded>
class Pending {
 public:
  explicit Pending(const Epilogue& e) : v_(e), table_(e.table) {}

  int32_t left() const noexcept { return n_ - done_; }

  // n_tiles (1 or 2) of sums (rows, 32) that lie kRows rows apart.
  void put(const TilePanel& panel, const PixelTile* tiles, int n_tiles,
           const int32_t* sums) noexcept {
    finish();
    const int32_t n = n_tiles == 2 ? panel.rows : (panel.rows + 1) / 2;
    const int32_t second = n_tiles == 2 ? kRows : panel.rows - n;  // row of sums
    const int64_t pixels[2] = {tiles[0].pixel,
                               n_tiles == 2 ? tiles[1].pixel : tiles[0].pixel + second};
    const GemmTile& t = panel.tile;
    sums_[0] = sums, sums_[1] = sums + second * kRowSums;
    for (int i = 0; i < 2; ++i) {
      y_[i] = t.y + pixels[i] * t.y_pitch;
      if (adds) residual_[i] = t.residual + pixels[i] * t.residual_pitch;
    }
    panel_ = &panel;
    n_ = n, done_ = 0;
    n_tiles_ = n_tiles, skip_ = n_tiles == 2 ? tiles[1].skip : 0;
  }

  [[gnu::always_inline]] void advance(int32_t n) noexcept {
    const int32_t begin = done_, end = begin + (n < left() ? n : left());
    if (begin == end) return;
    done_ = end;
    // Copies, for a byte that is stored could be anything's.
    const VectorEpilogue v = v_;
    const GemmTile& t = panel_->tile;
    const __m512 scale[2] = {_mm512_loadu_ps(t.scale), _mm512_loadu_ps(t.scale + kLanes)};
    const __mmask32 mask = panel_->mask;
    const int32_t* const sums[2] = {sums_[0], sums_[1]};
    uint8_t* const y[2] = {y_[0], y_[1]};
    const uint8_t* const residual[2] = {residual_[0], residual_[1]};
    const int64_t y_pitch = t.y_pitch, residual_pitch = t.residual_pitch;
    for (int32_t row = begin; row < end; ++row) {
      __m512i q[4];
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        const int half = i / 2, block = i % 2;
        const __m512i sum = _mm512_load_si512(sums[half] + row * kRowSums + block * kLanes);
        if (adds) {
          const uint8_t* r = residual[half] + row * residual_pitch + block * kLanes;
          const auto few = __mmask16(mask >> (block * kLanes));
          q[i] = steps_of_sum<bounded>(v, sum, scale[block], residual_of(v, r, few));
        } else {
          q[i] = steps<bounded>(v, sum, scale[block]);
        }
      }
      const __m512i bytes = pack_steps(v, q[0], q[1], q[2], q[3]);
      const int64_t at = row * y_pitch;
      _mm256_mask_storeu_epi8(y[0] + at, mask, _mm512_castsi512_si256(bytes));
      _mm256_mask_storeu_epi8(y[1] + at, mask, _mm512_extracti64x4_epi64(bytes, 1));
    }
  }

  // Stores the rest and looks up what was stored; once where the two tiles overlap.
  void finish() noexcept {
    advance(left());
    if (table_ == nullptr || n_ == 0) return;
    const TilePanel& p = *panel_;
    const int64_t pitch = p.tile.y_pitch;
    look_up({table_, y_[0], p.rows, p.tile.channels, pitch});
    if (n_tiles_ == 2) {
      look_up({table_, y_[1] + skip_ * pitch, p.rows - skip_, p.tile.channels, pitch});
    }
    n_ = done_ = 0;
  }

 private:
  const VectorEpilogue v_;
  const uint8_t* const table_;
  const TilePanel* panel_ = nullptr;
  const int32_t* sums_[2] = {};
  uint8_t* y_[2] = {};
  const uint8_t* residual_[2] = {};
  int32_t n_ = 0, done_ = 0;
  int32_t n_tiles_ = 0, skip_ = 0;
};

// Floats wait for nothing.
class StoredAtOnce {
 public:
  explicit StoredAtOnce(const Epilogue&) {}
  static int32_t left() noexcept { return 0; }
  static void advance(int32_t) noexcept {}
  static void finish() noexcept {}

  static void put(const TilePanel& panel, const PixelTile* tiles, int n_tiles,
                  const int32_t* sums) noexcept {
    GemmTile t = panel.tile;
    for (int i = 0; i < n_tiles; ++i) {
      t.y = panel.tile.y + tiles[i].pixel * t.y_pitch;
      store_pixels<kPanelBlocks>(t, sums + i * kRows * kRowSums, panel.rows);
    }
  }
};

static inline const int8_t* fetch(const int8_t* p, int32_t n_lines) noexcept {
  for (int32_t i = 0; i < n_lines; ++i, p += 64) {
    _mm_prefetch(reinterpret_cast<const char*>(p), _MM_HINT_T1);
  }
  return p;
}

// sums (mt * 16, 32) of mt tiles of pixels and nt blocks of channels.
template <int mt, int nt, class Waiting>
[[gnu::noinline]] void multiply(TilePanel& panel, const PixelTile* tiles, int32_t rows_a_step,
                                int32_t* sums, Waiting& waiting) noexcept {
  const GemmTile& t = panel.tile;
  _tile_loadd(0, t.bias, 0);
  if (nt > 1) _tile_loadd(1, t.bias + kLanes, 0);
  if (mt > 1) _tile_loadd(2, t.bias, 0);
  if (mt > 1 && nt > 1) _tile_loadd(3, t.bias + kLanes, 0);
  const int8_t *w = t.w, *next = panel.next;
  const int64_t x_step = panel.x_step;
  const int32_t n_segments = t.n_segments, steps = panel.steps, next_lines = panel.next_lines;
  const int32_t* const offsets = t.offsets;
  for (int32_t s = 0; s < n_segments; ++s) {
    const uint8_t* x0 = tiles[0].x + offsets[s];
    const uint8_t* x1 = mt > 1 ? tiles[1].x + offsets[s] : nullptr;
    for (int32_t k = 0; k < steps; ++k, w += nt * 1024, x0 += kDepth, x1 += kDepth) {
      _tile_loadd(6, w, 64);
      _tile_loadd(4, x0, x_step);
      _tile_dpbusd(0, 4, 6);
      if (nt > 1) {
        _tile_loadd(7, w + 1024, 64);
        _tile_dpbusd(1, 4, 7);
      }
      if (mt > 1) {
        _tile_loadd(5, x1, x_step);
        _tile_dpbusd(2, 5, 6);
      }
      if (mt > 1 && nt > 1) _tile_dpbusd(3, 5, 7);
      next = fetch(next, next_lines);
      waiting.advance(rows_a_step);
    }
  }
  panel.next = next;
  waiting.finish();
  _tile_stored(0, sums, kRowSums * 4);
  if (nt > 1) _tile_stored(1, sums + kLanes, kRowSums * 4);
  if (mt > 1) _tile_stored(2, sums + kRows * kRowSums, kRowSums * 4);
  if (mt > 1 && nt > 1) _tile_stored(3, sums + kRows * kRowSums + kLanes, kRowSums * 4);
}

}  // namespace
}  // namespace qtool
