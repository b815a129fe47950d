// Convolution with AMX: tiles of up to 16 pixels x 64 deep times 64 deep x 16 channels, two by two.
//
// A tile's pixels are neighbours in a line of the output, so that their windows lie a constant
// step apart and a tile of x is loaded from where x is. What a tile costs grows with its rows, so
// lines are cut into tiles of equal height; where that does not divide, the last tile overlaps
// the one before and stores only what is new.
#include <immintrin.h>

#include "conv/packed.h"
#include "conv/tiled.h"
#include "gemm/avx512_epilogue.h"
#include "lookup/lookup.h"

namespace qtool {
namespace {

constexpr int kRows = 16, kDepth = 64, kPanelBlocks = 2;
constexpr int kRowSums = kPanelBlocks * kLanes;

struct [[gnu::packed]] TileConfig {
  uint8_t palette = 1, start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};

// 0 .. 3 sums, 4 and 5 x, 6 and 7 w.
void configure(int rows) noexcept {
  TileConfig config;
  for (int tile = 0; tile < 8; ++tile) {
    config.row_bytes[tile] = 64;
    config.rows[tile] = uint8_t(tile < 6 ? rows : 16);
  }
  asm volatile("" ::: "memory");  // GCC 12's _tile_loadconfig declares the first 8 bytes only
  _tile_loadconfig(&config);
}

// Where the tiles of a block are.
class Grid {
 public:
  Grid(const ConvPlan& plan, const ConvBlock& block) : block_(block), step_(plan.step) {
    line_ = block.n_pixels / block.n_lines;
    per_line_ = (line_ + kRows - 1) / kRows;
    rows_ = (line_ + per_line_ - 1) / per_line_;
  }

  struct Tile {
    const uint8_t* x;
    int64_t pixel;  // of y, the first to store
    int32_t skip;   // rows that the tile before has stored
  };

  int32_t rows() const noexcept { return rows_; }
  int32_t size() const noexcept { return per_line_ * block_.n_lines; }

  Tile operator[](int32_t tile) const noexcept {
    const int32_t line = tile / per_line_, begin = tile % per_line_ * rows_;
    const int32_t at = begin < line_ - rows_ ? begin : line_ - rows_;
    return {block_.x + line * block_.line_step + at * step_,
            block_.first_pixel + int64_t{line} * line_ + begin, begin - at};
  }

 private:
  const ConvBlock& block_;
  int64_t step_;
  int32_t line_, per_line_, rows_;
};

struct Panel {
  const int8_t* w;
  const int32_t *bias, *offsets;
  int32_t n_segments, steps;
  int64_t x_step;
};

// sums (mt * 16, 32) of mt tiles of pixels and nt blocks of channels.
template <int mt, int nt>
void multiply(const Panel& p, const uint8_t* const* x, int32_t* sums) noexcept {
  _tile_loadd(0, p.bias, 0);
  if (nt > 1) _tile_loadd(1, p.bias + kLanes, 0);
  if (mt > 1) _tile_loadd(2, p.bias, 0);
  if (mt > 1 && nt > 1) _tile_loadd(3, p.bias + kLanes, 0);
  const int8_t* w = p.w;
  for (int32_t s = 0; s < p.n_segments; ++s) {
    const uint8_t* x0 = x[0] + p.offsets[s];
    const uint8_t* x1 = mt > 1 ? x[1] + p.offsets[s] : nullptr;
    for (int32_t k = 0; k < p.steps; ++k, w += nt * 1024, x0 += kDepth, x1 += kDepth) {
      _tile_loadd(6, w, 64);
      _tile_loadd(4, x0, p.x_step);
      _tile_dpbusd(0, 4, 6);
      if (nt > 1) {
        _tile_loadd(7, w + 1024, 64);
        _tile_dpbusd(1, 4, 7);
      }
      if (mt > 1) {
        _tile_loadd(5, x1, p.x_step);
        _tile_dpbusd(2, 5, 6);
      }
      if (mt > 1 && nt > 1) _tile_dpbusd(3, 5, 7);
    }
  }
  _tile_stored(0, sums, kRowSums * 4);
  if (nt > 1) _tile_stored(1, sums + kLanes, kRowSums * 4);
  if (mt > 1) _tile_stored(2, sums + kRows * kRowSums, kRowSums * 4);
  if (mt > 1 && nt > 1) _tile_stored(3, sums + kRows * kRowSums + kLanes, kRowSums * 4);
}

// Two pixels of 32 channels at a time.
void store_plain(const GemmTile& t, const int32_t* sums, int n_pixels) noexcept {
  const VectorEpilogue v(*t.epilogue);
  const __m512 scale[2] = {_mm512_loadu_ps(t.scale), _mm512_loadu_ps(t.scale + kLanes)};
  const auto mask = __mmask32(first_channels(t.channels));
  int i = 0;
  for (; i + 1 < n_pixels; i += 2, sums += 2 * kRowSums) {
    __m512i q[4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      q[j] = steps(v, _mm512_load_si512(sums + j * kLanes), scale[j % 2]);
    }
    const __m512i bytes = pack_steps(v, q[0], q[1], q[2], q[3]);
    _mm256_mask_storeu_epi8(t.y + i * t.y_pitch, mask, _mm512_castsi512_si256(bytes));
    _mm256_mask_storeu_epi8(t.y + (i + 1) * t.y_pitch, mask, _mm512_extracti64x4_epi64(bytes, 1));
  }
  if (i < n_pixels) store_pixel<2>(t, v, sums, i);
}

class Runner {
 public:
  explicit Runner(const ConvCall& call)
      : call_(call), packed_(*reinterpret_cast<const PackedConv*>(call.packed)) {}

  void run(int64_t begin, int64_t end) noexcept {
    const int64_t panels = int64_t{call_.args->groups} * packed_.n_panels;
    for (int64_t unit = begin; unit < end; ++unit) {
      if (unit == begin || unit % panels == 0) {
        block_ = open_block(call_, packed_.plan, unit / panels, call_.scratch);
      }
      run_panel(unit % panels);
    }
    if (rows_ != 0) _tile_release();
  }

 private:
  void run_panel(int64_t panel) noexcept {
    const GemmTile t = tiled_panel(call_, packed_, panel);
    const Panel p{t.w, t.bias, t.offsets, t.n_segments, packed_.segment_steps, packed_.plan.step};
    const Grid grid(packed_.plan, block_);
    if (grid.rows() != rows_) configure(grid.rows());
    rows_ = grid.rows();
    const bool wide = t.channels > kLanes;
    for (int32_t i = 0; i < grid.size(); i += 2) {
      const Grid::Tile first = grid[i];
      if (i + 1 == grid.size()) {
        wide ? multiply<1, 2>(p, &first.x, sums_) : multiply<1, 1>(p, &first.x, sums_);
        store(t, first, sums_);
        return;
      }
      const Grid::Tile second = grid[i + 1];
      const uint8_t* x[2] = {first.x, second.x};
      wide ? multiply<2, 2>(p, x, sums_) : multiply<2, 1>(p, x, sums_);
      store(t, first, sums_);
      store(t, second, sums_ + kRows * kRowSums);
    }
  }

  void store(GemmTile t, const Grid::Tile& at, const int32_t* sums) const noexcept {
    t.y += at.pixel * t.y_pitch;
    if (t.residual != nullptr) t.residual += at.pixel * t.residual_pitch;
    sums += at.skip * kRowSums;
    if (packs_bytes(*t.epilogue)) {
      store_plain(t, sums, rows_ - at.skip);
    } else {
      store_pixels<kPanelBlocks>(t, sums, rows_ - at.skip);
    }
    if (t.epilogue->table != nullptr) {
      look_up({t.epilogue->table, t.y, rows_ - at.skip, t.channels, t.y_pitch});
    }
  }

  const ConvCall& call_;
  const PackedConv& packed_;
  ConvBlock block_{};
  int rows_ = 0;  // of the tiles as configured, 0 when not
  alignas(64) int32_t sums_[2 * kRows * kRowSums];
};

PackedConv layout(const ConvArgs& a) noexcept {
  return PackedConv::layout(a, plan_conv(a, 2 * kRows), kDepth, kPanelBlocks);
}

bool available() noexcept { return true; }

bool supports(const ConvArgs& a) noexcept { return plan_fits(a, plan_conv(a, 2 * kRows)); }

size_t packed_bytes(const ConvArgs& a) noexcept { return layout(a).bytes; }

void pack(const ConvArgs& a, uint8_t* packed) noexcept { pack_conv(a, layout(a), packed); }

size_t scratch_bytes(const ConvArgs& a) noexcept { return tiled_scratch_bytes(layout(a).plan); }

int64_t units(const ConvArgs& a) noexcept { return layout(a).n_units(a); }

double cycles(const ConvArgs& a) noexcept {
  const PackedConv l = layout(a);
  const double steps = double(l.plan.n_segments) * l.segment_steps;
  const double tiles = std::ceil(double(l.plan.line) / kRows) * double(a.pixels()) / l.plan.line;
  const double blocks = l.n_panels * 2 * a.groups;  // of channels
  return 2000 + blocks * (tiles * (60 + steps * 8) + double(a.pixels()) * (steps + 4));
}

void run(const ConvCall& call, int64_t begin, int64_t end) noexcept {
  Runner(call).run(begin, end);
}

}  // namespace

const ConvVariant conv_32x32__amx = {
    "conv_32x32__amx", Isa::kAmx, available, supports, packed_bytes, pack,
    scratch_bytes,     units,     cycles,    run};

}  // namespace qtool
