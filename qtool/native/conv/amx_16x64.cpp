// Convolution with AMX: tiles of up to 16 pixels times up to 64 channels, for windows whose
// segments are short: few input channels, first layers.
//
// A row of a tile that crosses a line of the cache costs three times one that does not, and windows
// of few channels begin anywhere. So the last step of a segment loads only the bytes that it has,
// not 64 of them: mostly no row crosses a line then. And one load of pixels serves four products,
// not two. Sums of a tile wait in memory, and are stored while the next tile multiplies.
#include "conv/amx_tiles.h"
#include "conv/tiled.h"

namespace qtool {
namespace {

constexpr int kRowBlocks = 4;
constexpr size_t kNearWeights = 32 << 10;  // of a panel, that stay in the first cache

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

// Tiles 0 .. 3 are sums; 4 and 6 are pixels and weights of a whole step, 5 and 7 of the rest.
// Where a panel is one block and all its weights are three tiles, 1 .. 3 hold them.
void configure(int rows, int rest_bytes, bool resident) noexcept {
  TileConfig config;
  for (int tile = 0; tile < 8; ++tile) {
    const bool weights = tile >= 6 || (resident && tile >= 1 && tile <= 3);
    const bool rest = rest_bytes > 0 && (tile == 5 || tile == 7 || (weights && tile <= 3));
    config.row_bytes[tile] = uint16_t(rest && tile == 5 ? rest_bytes : 64);
    config.rows[tile] = uint8_t(!weights ? rows : rest ? rest_bytes / 4 : 16);
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
        full_(nb == 4 && t.channels == 64),
        dense_(t.channels == nb * kLanes && t.y_pitch == t.channels) {
    for (int j = 0; j < nb; ++j) scale_[j] = _mm512_loadu_ps(t.scale + j * kLanes);
  }

  void put(const int32_t* sums, int64_t pixel, int32_t rows) noexcept {
    sums_ = sums, left_ = rows;
    y_ = tile_.y + pixel * tile_.y_pitch;
    residual_ = tile_.residual + pixel * tile_.residual_pitch;
  }

  [[gnu::always_inline]] void advance(int32_t groups) noexcept {
    if (finish == Finish::kAny) return advance_any(groups);
    if (nb == 4 && full_) return store_full(groups);
    for (; groups > 0 && left_ > 0; --groups, left_ -= kGroup) {
      store_group();
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

  [[gnu::always_inline]] void store_group() noexcept {
    __m512i q[4];
#pragma GCC unroll 4
    for (int i = 0; i < kVectors; ++i) {
      const int row = i / nb, block = i % nb;
      const __m512i sum = _mm512_load_si512(sums_ + i * kLanes);
      if (kAdds) {
        const auto few = __mmask16(row < left_ ? mask_ >> (block * kLanes) : 0);
        const uint8_t* r = residual_ + row * tile_.residual_pitch + block * kLanes;
        q[i] = steps_of_sum<true>(v_, sum, scale_[block], residual_of(v_, r, few));
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
  const bool full_;   // a row of sums is stored as a line of 64 bytes
  const bool dense_;  // rows of y follow each other
  __m512 scale_[nb];
  const int32_t* sums_ = nullptr;
  uint8_t* y_ = nullptr;
  const uint8_t* residual_ = nullptr;
  int32_t left_ = 0;  // rows that wait
};

// One step of a product: acc[j] += pixels in tile x times weights in tile w.
#define QTOOL_STEP(x, w)                \
  _tile_loadd(x, at, x_step);           \
  _tile_loadd(w, weights, 64);          \
  _tile_dpbusd(0, x, w);                \
  if (nb > 1) {                         \
    _tile_loadd(w, weights + 1024, 64); \
    _tile_dpbusd(1, x, w);              \
  }                                     \
  if (nb > 2) {                         \
    _tile_loadd(w, weights + 2048, 64); \
    _tile_dpbusd(2, x, w);              \
  }                                     \
  if (nb > 3) {                         \
    _tile_loadd(w, weights + 3072, 64); \
    _tile_dpbusd(3, x, w);              \
  }                                     \
  weights += nb * 1024

template <int nb>
[[gnu::always_inline]] inline void begin_sums(const int32_t* bias) noexcept {
  _tile_loadd(0, bias, 0);
  if (nb > 1) _tile_loadd(1, bias + kLanes, 0);
  if (nb > 2) _tile_loadd(2, bias + 2 * kLanes, 0);
  if (nb > 3) _tile_loadd(3, bias + 3 * kLanes, 0);
}

template <int nb>
[[gnu::always_inline]] inline void end_sums(int32_t* sums) noexcept {
  constexpr int kPitch = nb * kLanes * 4;
  _tile_stored(0, sums, kPitch);
  if (nb > 1) _tile_stored(1, sums + kLanes, kPitch);
  if (nb > 2) _tile_stored(2, sums + 2 * kLanes, kPitch);
  if (nb > 3) _tile_stored(3, sums + 3 * kLanes, kPitch);
}

// Weights are loaded for each tile.
template <int nb>
struct Streamed {
  explicit Streamed(const LinePanel& panel) : panel_(panel), next_(panel.next) {
    const int32_t n_steps = panel.tile.n_segments * (panel.whole + (panel.rest ? 1 : 0));
    groups_ = (panel.rows + n_steps - 1) / n_steps;
  }

  template <class Storing>
  [[gnu::always_inline]] void multiply(const uint8_t* x, int32_t* sums, Storing& storing) noexcept {
    const GemmTile& t = panel_.tile;
    const int64_t x_step = panel_.x_step;
    const int32_t next_lines = panel_.next_lines;
    const int8_t *weights = t.w, *next = next_;
    begin_sums<nb>(t.bias);
    for (int32_t s = 0; s < t.n_segments; ++s) {
      const uint8_t* at = x + t.offsets[s];
      for (int32_t k = 0; k < panel_.whole; ++k, at += kDepth) {
        QTOOL_STEP(4, 6);
        next = fetch(next, next_lines);
        storing.advance(groups_);
      }
      if (!panel_.rest) continue;
      QTOOL_STEP(5, 7);
      next = fetch(next, next_lines);
      storing.advance(groups_);
    }
    next_ = next;
    end_sums<nb>(sums);
  }

 private:
  const LinePanel& panel_;
  const int8_t* next_;  // weights to fetch
  int32_t groups_;      // to store in each step
};

// Weights of one block stay in tiles 1 .. n_steps, a step to a segment.
template <int n_steps>
struct Resident {
  explicit Resident(const LinePanel& panel) : panel_(panel) {
    const int8_t* w = panel.tile.w;
    _tile_loadd(1, w, 64);
    if (n_steps > 1) _tile_loadd(2, w + 1024, 64);
    if (n_steps > 2) _tile_loadd(3, w + 2048, 64);
  }

  template <class Storing>
  [[gnu::always_inline]] void multiply(const uint8_t* x, int32_t* sums,
                                       Storing& storing) const noexcept {
    const GemmTile& t = panel_.tile;
    const int64_t x_step = panel_.x_step;
    begin_sums<1>(t.bias);
    _tile_loadd(5, x + t.offsets[0], x_step);
    _tile_dpbusd(0, 5, 1);
    if (n_steps > 1) {
      _tile_loadd(5, x + t.offsets[1], x_step);
      _tile_dpbusd(0, 5, 2);
    }
    if (n_steps > 2) {
      _tile_loadd(5, x + t.offsets[2], x_step);
      _tile_dpbusd(0, 5, 3);
    }
    end_sums<1>(sums);
    storing.advance(kRows);
  }

 private:
  const LinePanel& panel_;
};

#undef QTOOL_STEP

template <int nb, Finish finish, class Product>
[[gnu::noinline]] void run_tiles(const LinePanel& panel, const PixelTile* tiles,
                                 int32_t n_tiles) noexcept {
  alignas(64) int32_t sums[2][kRows * nb * kLanes];
  Product product(panel);
  Storing<nb, finish> storing(panel.tile);
  for (int32_t i = 0; i < n_tiles; ++i) {
    product.multiply(tiles[i].x, sums[i % 2], storing);
    storing.advance(kRows);
    storing.put(sums[i % 2], tiles[i].pixel, panel.rows);
  }
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
  return PackedConv::layout(a, plan_conv(a, kRows), kDepth, kRowBlocks);
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

bool supports(const ConvArgs& a) noexcept { return plan_fits(a, plan_conv(a, kRows)); }

size_t packed_bytes(const ConvArgs& a) noexcept { return layout(a).bytes; }

void pack(const ConvArgs& a, uint8_t* packed) noexcept { pack_conv(a, layout(a), packed); }

size_t scratch_bytes(const ConvArgs& a) noexcept { return tiles_scratch_bytes(layout(a).plan); }

int64_t units(const ConvArgs& a) noexcept { return layout(a).n_units(a); }

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

const ConvVariant conv_16x64__amx = {
    "conv_16x64__amx", Isa::kAmx, available, supports, packed_bytes, pack,
    scratch_bytes,     units,     cycles,    run};

}  // namespace qtool
