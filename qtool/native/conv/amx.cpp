// Convolution with AMX: tiles of up to 16 pixels x 64 deep times 64 deep x 16 channels, two by two.
//
// A tile's pixels are neighbours in a line of the output, so that their windows lie a constant
// step apart and a tile of x is loaded from where x is. What a tile costs grows with its rows, so
// lines are cut into tiles of equal height; where that does not divide, the last tile overlaps
// the one before and makes some pixels again.
#include "conv/amx_tiles.h"
#include "conv/packed.h"
#include "conv/tiled.h"

namespace qtool {
namespace {

template <class Waiting>
class Runner {
 public:
  explicit Runner(const ConvCall& call)
      : call_(call),
        packed_(*reinterpret_cast<const PackedConv*>(call.packed)),
        tiles_(reinterpret_cast<PixelTile*>(call.scratch + tiles_at(packed_.plan))),
        waiting_(call.args->epilogue) {}

  void run(int64_t begin, int64_t end) noexcept {
    const int64_t panels = int64_t{call_.args->groups} * packed_.n_panels;
    const int64_t all = packed_.n_units(*call_.args);
    const int64_t first_block = begin / panels;
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t block = unit / panels, panel = unit % panels;
      if (unit == begin || panel == 0) open(block);
      // Weights come from memory once, and the next op's lie behind; then they are in some cache.
      run_panel(panel, unit + 1 == end ? end == all : block == first_block);
    }
    waiting_.finish();
    if (rows_ != 0) _tile_release();
  }

 private:
  void open(int64_t index) noexcept {
    const ConvBlock block = open_block(call_, packed_.plan, index, call_.scratch);
    n_tiles_ = list_tiles(packed_.plan, block, tiles_);
    const int32_t rows = tile_rows(block.n_pixels / block.n_lines);
    if (rows != rows_) configure_tiles(rows);
    rows_ = rows;
  }

  void run_panel(int64_t index, bool fetches) noexcept {
    panel_turn_ ^= 1;
    TilePanel& panel = panels_[panel_turn_];  // sums of the other one may still wait
    panel.tile = tiled_panel(call_, packed_, index);
    panel.x_step = packed_.plan.step;
    panel.rows = rows_;
    panel.steps = packed_.segment_steps;
    panel.mask = __mmask32(first_channels(panel.tile.channels));
    const int32_t steps = panel.steps * panel.tile.n_segments;
    const int64_t lines = fetches ? int64_t(packed_.panel_bytes / 64) : 0;
    const int64_t all_steps = int64_t{steps} * ((n_tiles_ + 1) / 2);
    panel.next = panel.tile.w + packed_.panel_bytes;
    panel.next_lines = int32_t((lines + all_steps - 1) / all_steps);
    const bool wide = panel.tile.channels > kLanes;
    const int32_t rows_a_step = (rows_ + steps - 1) / steps;
    for (int32_t i = 0; i < n_tiles_; i += 2) {
      const int n = i + 1 < n_tiles_ ? 2 : 1;
      int32_t* sums = sums_[turn_];
      turn_ ^= 1;
      const auto product = n == 2 ? wide ? multiply<2, 2, Waiting> : multiply<2, 1, Waiting>
                           : wide ? multiply<1, 2, Waiting>
                                  : multiply<1, 1, Waiting>;
      product(panel, tiles_ + i, rows_a_step, sums, waiting_);
      waiting_.put(panel, tiles_ + i, n, sums);
    }
  }

  const ConvCall& call_;
  const PackedConv& packed_;
  PixelTile* const tiles_;
  int32_t n_tiles_ = 0;
  int32_t rows_ = 0;  // of the tiles as configured, 0 when not
  int turn_ = 0, panel_turn_ = 0;
  Waiting waiting_;
  TilePanel panels_[2];
  alignas(64) int32_t sums_[2][2 * kRows * kRowSums];
};

template <class Waiting>
void run_with(const ConvCall& call, int64_t begin, int64_t end) noexcept {
  Runner<Waiting>(call).run(begin, end);
}

PackedConv layout(const ConvArgs& a) noexcept {
  return PackedConv::layout(a, plan_conv(a, 2 * kRows), kDepth, kPanelBlocks);
}

bool available() noexcept { return true; }

bool supports(const ConvArgs& a) noexcept { return plan_fits(a, plan_conv(a, 2 * kRows)); }

double cycles(const ConvArgs& a) noexcept {
  const PackedConv l = layout(a);
  const double steps = double(l.plan.n_segments) * l.segment_steps;
  const double tiles = std::ceil(double(l.plan.line) / kRows) * double(a.pixels()) / l.plan.line;
  const double blocks = l.n_panels * 2 * a.groups;  // of channels
  return 2000 + blocks * (tiles * (60 + steps * 8) + double(a.pixels()) * (steps + 4));
}

void run(const ConvCall& call, int64_t begin, int64_t end) noexcept {
  const Epilogue& e = call.args->epilogue;
  const bool bounded = reinterpret_cast<const PackedConv*>(call.packed)->bounded;
  if (e.float_output) return run_with<StoredAtOnce>(call, begin, end);
  if (e.has_residual) {
    return bounded ? run_with<Pending<true, true>>(call, begin, end)
                   : run_with<Pending<true, false>>(call, begin, end);
  }
  return bounded ? run_with<Pending<false, true>>(call, begin, end)
                 : run_with<Pending<false, false>>(call, begin, end);
}

}  // namespace

const ConvVariant conv_32x32__amx =
    tile_variant<layout>("conv_32x32__amx", available, supports, cycles, run);

}  // namespace qtool
