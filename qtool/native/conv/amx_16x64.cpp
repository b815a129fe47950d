// Convolution with AMX: tiles of up to 16 pixels times up to 64 channels, for short windows: few
// input channels, first layers, 1 x 1.
//
// A row of a tile that crosses a line of the cache costs three times one that does not, and windows
// of few channels begin anywhere. So the last step of a segment loads only the bytes that it has,
// not 64 of them: mostly no row crosses a line then. And one load of pixels serves four products,
// not two. What a tile stores is slow to load, and storing it takes as long as two products: so
// sums go to memory while the next tile of pixels multiplies, and become bytes beside the one
// after.
#include <utility>

#include "conv/amx_tiles.h"
#include "conv/tiled.h"

namespace qtool {
namespace {

constexpr int kRowBlocks = 4;
// Each panel begins and ends with tiles that nothing runs beside: blocks of many tiles, then.
constexpr int64_t kBlockBytes = 320 << 10;
constexpr size_t kNearWeights = 40 << 10;  // of a panel, that stay in the first cache

// What becomes of sums: any of epilogue.h; or bytes for which no product of a sum and its scale
// comes near the ends of int32, without clamps beyond those of a byte; with them; with a residual.
// Plain ones are those of pack_plain().
enum class Finish { kAny, kPlain, kClamped, kPlainSum, kSum };

struct LinePanel {
  GemmTile tile;  // y and residual are those of pixel 0
  int64_t x_step;
  int32_t rows;        // of a tile
  int32_t whole;       // steps of kDepth in a segment
  bool rest;           // and one of less
  const int8_t* next;  // weights to fetch meanwhile
  int32_t next_lines;  // of 64 bytes, in each step
};

// The intrinsics take numbers of tiles as they are written.
template <int tile>
[[gnu::always_inline]] inline void load_tile(const void* from, int64_t step) noexcept {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(step), "i"(tile));
}

template <int tile>
[[gnu::always_inline]] inline void store_tile(void* to, int64_t step) noexcept {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(to), "r"(step), "i"(tile) : "memory");
}

template <int sums, int x, int w>
[[gnu::always_inline]] inline void multiply_tiles() noexcept {
  asm volatile("tdpbusd %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(sums), "i"(x), "i"(w));
}

// Tiles 0 .. 3 are sums; 4 and 6 are pixels and weights of a whole step, 5 and 7 of the rest. Where
// weights are resident: 0 are sums, 1 .. 3 weights, and 4 .. 6 pixels of segments.
void configure(int rows, int rest_bytes, bool resident) noexcept {
  const int bytes = rest_bytes == 0 ? kDepth : rest_bytes;
  TileConfig config;
  for (int tile = 0; tile < 8; ++tile) {
    const bool weights = resident ? tile >= 1 && tile <= 3 : tile >= 6;
    const bool pixels = tile >= 4 && !weights, part = resident || tile == 5 || tile == 7;
    config.row_bytes[tile] = uint16_t(pixels && part ? bytes : 64);
    config.rows[tile] = uint8_t(!weights ? rows : part ? bytes / 4 : 16);
  }
  asm volatile("" ::: "memory");
  _tile_loadconfig(&config);
}

// Stores the sums (rows, nb * 16) of one tile, 64 at a time.
template <int nb, Finish finish>
class Storing {
 public:
  static constexpr int kGroup = nb < 3 ? 4 / nb : 1;  // rows at a time
  static constexpr int kVectors = nb == 3 ? 3 : 4;
  static constexpr bool kAdds = finish == Finish::kSum || finish == Finish::kPlainSum;
  static constexpr bool kIsPlain = finish == Finish::kPlain || finish == Finish::kPlainSum;

  explicit Storing(const GemmTile& t)
      : v_(*t.epilogue),
        tile_(t),
        mask_(first_channels(t.channels)),
        whole_(t.channels == nb * kLanes),
        dense_(whole_ && t.y_pitch == t.channels) {
    for (int j = 0; j < nb; ++j) scale_[j] = _mm512_loadu_ps(t.scale + j * kLanes);
  }

  void put(const int32_t* sums, int64_t pixel, int32_t rows) noexcept {
    sums_ = sums, left_ = rows;
    y_ = tile_.y + pixel * tile_.y_pitch;
    residual_ = tile_.residual + pixel * tile_.residual_pitch;
  }

  [[gnu::always_inline]] void advance(int32_t groups) noexcept {
    if (finish == Finish::kAny) return advance_any(groups);
    if (nb == 4 && whole_) return store_full(groups);
    for (; groups > 0 && left_ > 0; --groups, left_ -= kGroup) {
      if (!kAdds || (whole_ && left_ >= kGroup)) {
        store_group<true>();
      } else {
        store_group<false>();
      }
      sums_ += kGroup * nb * kLanes;
      y_ += kGroup * tile_.y_pitch;
      residual_ += kGroup * tile_.residual_pitch;
    }
  }

 private:
  void advance_any(int32_t) noexcept {
    if (left_ <= 0) return;
    GemmTile t = tile_;
    t.y = y_, t.residual = residual_;
    store_pixels<nb>(t, sums_, left_);
    left_ = 0;
  }

  // Rows of 64 channels.
  [[gnu::always_inline]] void store_full(int32_t n_rows) noexcept {
    // Copies, for a byte that is stored could be anything's.
    const VectorEpilogue v = v_;
    const __m512 scale[4] = {scale_[0], scale_[nb > 1], scale_[nb > 2 ? 2 : 0], scale_[nb - 1]};
    const int64_t y_pitch = tile_.y_pitch, residual_pitch = tile_.residual_pitch;
    const int32_t end = n_rows < left_ ? n_rows : left_;
    const int32_t* sums = sums_;
    uint8_t* y = y_;
    const uint8_t* residual = residual_;
    for (int32_t row = 0; row < end; ++row, sums += 64, y += y_pitch, residual += residual_pitch) {
      __m512i q[4];
      if (kAdds) fetch_row(residual + kRows * residual_pitch);
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) {
        const __m512i sum = _mm512_load_si512(sums + j * kLanes);
        q[j] = kAdds ? steps_of_sum<true>(v, sum, scale[j], residual_of(v, residual + j * kLanes))
                     : steps<true>(v, sum, scale[j]);
      }
      _mm512_storeu_si512(
          y, kIsPlain ? pack_plain(q[0], q[1], q[2], q[3]) : pack_steps(v, q[0], q[1], q[2], q[3]));
    }
    sums_ = sums, y_ = y, residual_ = residual;
    left_ -= end;
  }

  // Of the next tile: rows lie too far apart for the processor to foresee them.
  static void fetch_row(const uint8_t* residual) noexcept {
    _mm_prefetch(reinterpret_cast<const char*>(residual), _MM_HINT_T0);
  }

  // With the residuals of all its channels and rows, or of some.
  template <bool all>
  [[gnu::always_inline]] void store_group() noexcept {
    __m512i q[4];
#pragma GCC unroll 4
    for (int i = 0; i < kVectors; ++i) {
      const int row = i / nb, block = i % nb;
      const __m512i sum = _mm512_load_si512(sums_ + i * kLanes);
      if (kAdds) {
        const auto few = __mmask16(row < left_ ? mask_ >> (block * kLanes) : 0);
        const uint8_t* r = residual_ + row * tile_.residual_pitch + block * kLanes;
        const __m512 residual = all ? residual_of(v_, r) : residual_of(v_, r, few);
        q[i] = steps_of_sum<true>(v_, sum, scale_[block], residual);
      } else {
        q[i] = steps<true>(v_, sum, scale_[block]);
      }
    }
    store_bytes_of(packed(q));
  }

  [[gnu::always_inline]] __m512i packed(const __m512i* q) const noexcept {
    const __m512i& last = q[kVectors - 1];
    return kIsPlain ? pack_plain(q[0], q[1], q[2], last) : pack_steps(v_, q[0], q[1], q[2], last);
  }

  [[gnu::always_inline]] void store_bytes_of(__m512i bytes) noexcept {
    if (nb >= 3) {
      _mm512_mask_storeu_epi8(y_, mask_, bytes);
    } else if (dense_ && left_ >= kGroup) {
      _mm512_storeu_si512(y_, bytes);
    } else if (nb == 2) {
      const auto few = __mmask32(mask_);
      _mm256_mask_storeu_epi8(y_, few, _mm512_castsi512_si256(bytes));
      if (left_ < 2) return;
      _mm256_mask_storeu_epi8(y_ + tile_.y_pitch, few, _mm512_extracti64x4_epi64(bytes, 1));
    } else {
      store_row(0, _mm512_castsi512_si128(bytes));
      store_row(1, _mm512_extracti32x4_epi32(bytes, 1));
      store_row(2, _mm512_extracti32x4_epi32(bytes, 2));
      store_row(3, _mm512_extracti32x4_epi32(bytes, 3));
    }
  }

  [[gnu::always_inline]] void store_row(int row, __m128i bytes) noexcept {
    const auto few = __mmask16(row < left_ ? mask_ : 0);
    _mm_mask_storeu_epi8(y_ + row * tile_.y_pitch, few, bytes);
  }

  const VectorEpilogue v_;
  const GemmTile& tile_;
  const __mmask64 mask_;
  const bool whole_;  // no channel is masked
  const bool dense_;  // and rows of y follow each other
  __m512 scale_[nb];
  const int32_t* sums_ = nullptr;
  uint8_t* y_ = nullptr;
  const uint8_t* residual_ = nullptr;
  int32_t left_ = 0;  // rows that wait
};

template <int nb>
[[gnu::always_inline]] inline void store_sums(int32_t* sums) noexcept {
  constexpr int kPitch = nb * kLanes * 4;
  store_tile<0>(sums, kPitch);
  if (nb > 1) store_tile<1>(sums + kLanes, kPitch);
  if (nb > 2) store_tile<2>(sums + 2 * kLanes, kPitch);
  if (nb > 3) store_tile<3>(sums + 3 * kLanes, kPitch);
}

// Weights are loaded for each tile of pixels.
template <int nb>
class Streamed {
 public:
  template <class Storing>
  Streamed(const LinePanel& panel, const Storing&) : panel_(panel), next_(panel.next) {
    const int32_t n_steps = panel.tile.n_segments * (panel.whole + (panel.rest ? 1 : 0));
    const int32_t groups = (panel.rows + Storing::kGroup - 1) / Storing::kGroup;
    groups_ = (groups + nb * n_steps - 1) / (nb * n_steps);
  }

  // Stores the sums of the tile before, and begins those of x; meanwhile bytes of sums that were
  // stored before, because what a tile has stored is slow to load.
  template <class Storing>
  [[gnu::always_inline]] void run(const uint8_t* x, int32_t* before, Storing& storing) noexcept {
    const GemmTile& t = panel_.tile;
    Place at{x + t.offsets[0], t.w, before};
    if (panel_.whole > 0) {
      step<true, 4, 6>(at, storing);
    } else {
      step<true, 5, 7>(at, storing);
    }
    for (int32_t k = 1; k < panel_.whole; ++k) step<false, 4, 6>(at, storing);
    if (panel_.rest && panel_.whole > 0) step<false, 5, 7>(at, storing);
    for (int32_t s = 1; s < t.n_segments; ++s) {
      at.x = x + t.offsets[s];
      for (int32_t k = 0; k < panel_.whole; ++k) step<false, 4, 6>(at, storing);
      if (panel_.rest) step<false, 5, 7>(at, storing);
    }
  }

 private:
  struct Place {
    const uint8_t* x;
    const int8_t* w;
    int32_t* before;
  };

  template <bool first, int x, int w, class Storing>
  [[gnu::always_inline]] void step(Place& at, Storing& storing) noexcept {
    load_tile<x>(at.x, panel_.x_step);
    block<0, first, x, w>(at, storing);
    if constexpr (nb > 1) block<1, first, x, w>(at, storing);
    if constexpr (nb > 2) block<2, first, x, w>(at, storing);
    if constexpr (nb > 3) block<3, first, x, w>(at, storing);
    at.x += kDepth;
    at.w += nb * 1024;
    next_ = fetch(next_, panel_.next_lines);
    if (!first) storing.advance(nb * groups_);
  }

  template <int j, bool first, int x, int w, class Storing>
  [[gnu::always_inline]] void block(const Place& at, Storing& storing) const noexcept {
    if (first) {
      store_tile<j>(at.before + j * kLanes, nb * kLanes * 4);
      load_tile<j>(panel_.tile.bias + j * kLanes, 0);
    }
    load_tile<w>(at.w + j * 1024, 64);
    multiply_tiles<j, x, w>();
    if (first) storing.advance(groups_);
  }

  const LinePanel& panel_;
  const int8_t* next_;  // weights to fetch
  int32_t groups_;      // to store after each product
};

// Weights of one block stay in tiles, a step to a segment.
template <int n_steps>
class Resident {
 public:
  template <class Storing>
  Resident(const LinePanel& panel, const Storing&) : panel_(panel) {
    const int8_t* w = panel.tile.w;
    load_tile<1>(w, 64);
    if (n_steps > 1) load_tile<2>(w + 1024, 64);
    if (n_steps > 2) load_tile<3>(w + 2048, 64);
  }

  template <class Storing>
  [[gnu::always_inline]] void run(const uint8_t* x, int32_t* before,
                                  Storing& storing) const noexcept {
    const GemmTile& t = panel_.tile;
    const int64_t x_step = panel_.x_step;
    load_tile<4>(x + t.offsets[0], x_step);
    if (n_steps > 1) load_tile<5>(x + t.offsets[1], x_step);
    if (n_steps > 2) load_tile<6>(x + t.offsets[2], x_step);
    store_sums<1>(before);
    load_tile<0>(t.bias, 0);
    multiply_tiles<0, 4, 1>();
    if (n_steps > 1) multiply_tiles<0, 5, 2>();
    if (n_steps > 2) multiply_tiles<0, 6, 3>();
    storing.advance(kRows);
  }

 private:
  const LinePanel& panel_;
};

template <int nb, Finish finish, class Product>
[[gnu::noinline]] void run_tiles(const LinePanel& panel, const PixelTile* tiles,
                                 int32_t n_tiles) noexcept {
  constexpr int kApart = kRows * nb * kLanes + 5 * kLanes;  // at other addresses modulo a page
  alignas(64) int32_t buffers[2 * kApart];
  int32_t *before = buffers, *waiting = buffers + kApart;
  Storing<nb, finish> storing(panel.tile);
  Product product(panel, storing);
  for (int32_t i = 0; i < n_tiles; ++i) {
    product.run(tiles[i].x, before, storing);
    storing.advance(kRows);
    if (i > 0) storing.put(before, tiles[i - 1].pixel, panel.rows);
    std::swap(before, waiting);
  }
  store_sums<nb>(before);
  storing.advance(kRows);
  storing.put(before, tiles[n_tiles - 1].pixel, panel.rows);
  storing.advance(kRows);
}

using Run = void (*)(const LinePanel&, const PixelTile*, int32_t) noexcept;

template <Finish finish>
Run runner(int blocks, int resident) noexcept {
  constexpr Run kResident[] = {run_tiles<1, finish, Resident<1>>, run_tiles<1, finish, Resident<2>>,
                               run_tiles<1, finish, Resident<3>>};
  constexpr Run kStreamed[] = {run_tiles<1, finish, Streamed<1>>, run_tiles<2, finish, Streamed<2>>,
                               run_tiles<3, finish, Streamed<3>>,
                               run_tiles<4, finish, Streamed<4>>};
  return resident > 0 ? kResident[resident - 1] : kStreamed[blocks - 1];
}

Run runner(const Epilogue& e, bool bounded, int blocks, int resident) noexcept {
  if (e.float_output || !bounded) return runner<Finish::kAny>(blocks, resident);
  if (packs_plain(e)) {
    return e.has_residual ? runner<Finish::kPlainSum>(blocks, resident)
                          : runner<Finish::kPlain>(blocks, resident);
  }
  return e.has_residual ? runner<Finish::kSum>(blocks, resident)
                        : runner<Finish::kClamped>(blocks, resident);
}

PackedConv layout(const ConvArgs& a) noexcept {
  return PackedConv::layout(a, plan_conv(a, kRows, kBlockBytes), kDepth, kRowBlocks);
}

int rest_bytes(const ConvPlan& plan) noexcept { return (plan.segment_bytes % kDepth + 3) / 4 * 4; }

// Steps of a product whose weights stay in tiles, 0 where they do not fit.
int resident_steps(const PackedConv& packed) noexcept {
  const ConvPlan& plan = packed.plan;
  const bool fit = plan.group_out <= kLanes && plan.n_segments <= 3 && plan.segment_bytes <= kDepth;
  return fit ? plan.n_segments : 0;
}

class Runner {
 public:
  explicit Runner(const ConvCall& call)
      : call_(call),
        packed_(*reinterpret_cast<const PackedConv*>(call.packed)),
        tiles_(reinterpret_cast<PixelTile*>(call.scratch + tiles_at(packed_.plan))) {}

  void run(int64_t begin, int64_t end) noexcept {
    const int64_t panels = int64_t{call_.args->groups} * packed_.n_panels;
    const int64_t all = packed_.n_units(*call_.args);
    for (int64_t unit = begin; unit < end; ++unit) {
      if (unit == begin || unit % panels == 0) open(unit / panels);
      // As in amx.cpp.
      const bool first_block = unit / panels == begin / panels;
      run_panel(unit % panels, unit + 1 == end ? end == all : first_block);
    }
    if (rows_ != 0) _tile_release();
  }

 private:
  void open(int64_t index) noexcept {
    const ConvBlock block = open_block(call_, packed_.plan, index, call_.scratch);
    n_tiles_ = list_tiles(packed_.plan, block, tiles_);
    const int32_t rows = tile_rows(block.n_pixels / block.n_lines);
    if (rows != rows_) configure(rows, rest_bytes(packed_.plan), resident_steps(packed_) > 0);
    rows_ = rows;
  }

  void run_panel(int64_t index, bool fetches) noexcept {
    const ConvPlan& plan = packed_.plan;
    LinePanel panel;
    panel.tile = tiled_panel(call_, packed_, index);
    panel.x_step = plan.step;
    panel.rows = rows_;
    panel.whole = plan.segment_bytes / kDepth;
    panel.rest = plan.segment_bytes % kDepth != 0;
    const int64_t lines = fetches ? int64_t(packed_.panel_bytes / 64) : 0;
    const int64_t steps = int64_t{n_tiles_} * plan.n_segments * packed_.segment_steps;
    panel.next = panel.tile.w + packed_.panel_bytes;
    panel.next_lines = int32_t((lines + steps - 1) / steps);
    const Epilogue& e = call_.args->epilogue;
    const int blocks = (panel.tile.channels + kLanes - 1) / kLanes;
    runner(e, packed_.bounded, blocks, resident_steps(packed_))(panel, tiles_, n_tiles_);
    if (e.table != nullptr && !e.float_output) look_up_tiles(panel);
  }

  // Once where tiles overlap.
  void look_up_tiles(const LinePanel& panel) const noexcept {
    const GemmTile& t = panel.tile;
    for (int32_t i = 0; i < n_tiles_; ++i) {
      const PixelTile& tile = tiles_[i];
      look_up({t.epilogue->table, t.y + (tile.pixel + tile.skip) * t.y_pitch,
               panel.rows - tile.skip, t.channels, t.y_pitch});
    }
  }

  const ConvCall& call_;
  const PackedConv& packed_;
  PixelTile* const tiles_;
  int32_t n_tiles_ = 0;
  int32_t rows_ = 0;  // of the tiles as configured, 0 when not
};

bool available() noexcept { return true; }

bool supports(const ConvArgs& a) noexcept { return plan_fits(a, plan_conv(a, kRows, kBlockBytes)); }

double cycles(const ConvArgs& a) noexcept {
  const PackedConv l = layout(a);
  const double steps = double(l.plan.n_segments) * l.segment_steps;
  const double tiles = std::ceil(double(l.plan.line) / kRows) * double(a.pixels()) / l.plan.line;
  const double blocks = std::ceil(double(l.plan.group_out) / kLanes) * a.groups;
  const double load = l.panel_bytes > kNearWeights ? 17 : 8;  // of weights, for each tile of pixels
  return 1500 + blocks * (tiles * (40 + steps * load) + double(a.pixels()) * (steps + 2));
}

void run(const ConvCall& call, int64_t begin, int64_t end) noexcept {
  Runner(call).run(begin, end);
}

}  // namespace

const ConvVariant conv_16x64__amx =
    tile_variant<layout>("conv_16x64__amx", available, supports, cycles, run);

}  // namespace qtool
