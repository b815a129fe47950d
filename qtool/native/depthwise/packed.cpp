#include "depthwise/packed.h"

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

// Taps of a row of the kernel that one run of outputs sees.
int32_t row_taps(const ConvArgs& a, int32_t run) noexcept { return a.kernel_w + run - 1; }

// One quad is four neighbours of a row; a single output takes its taps four by four as they come.
int32_t count_quads(const ConvArgs& a, int32_t run) noexcept {
  if (run == 1) return ceil_div(a.depth(), 4);
  return a.kernel_h * ceil_div(row_taps(a, run), 4);
}

// Interleaving costs 8 instructions a quad, an output 4.
int32_t best_run(const ConvArgs& a) noexcept {
  int32_t best = 1;
  double least = 12.0 * count_quads(a, 1);
  if (a.stride_w != 1 || a.dilation_w != 1) return 1;
  for (int32_t run = 2; run <= std::min(kMostRun, a.out_w); ++run) {
    const double cost = count_quads(a, run) * (8.0 / run + 4);
    if (cost < least) best = run, least = cost;
  }
  return best;
}

// How many neighbouring pixels fill a vector: 1 unless all rows are contiguous.
int32_t pixels_of_vector(const ConvArgs& a, int32_t lanes) noexcept {
  const bool contiguous = a.x_pitch == a.in_c && a.y_pitch == a.out_c &&
                          (!a.epilogue.has_residual || a.residual_pitch == a.out_c);
  if (a.stride_w != 1 || !contiguous || lanes % a.in_c != 0) return 1;
  return a.out_w >= lanes / a.in_c ? lanes / a.in_c : 1;
}

// Outputs at both ends of a line whose windows leave x; and whether it pays to copy only those.
void find_ends(const ConvArgs& a, PackedDepthwise& p) noexcept {
  const int64_t inside = int64_t{a.in_w} + a.pad_left - p.plan.window_w;  // of the last window
  const int64_t end = inside < 0 ? 0 : inside / a.stride_w + 1;
  p.left = int32_t(std::min<int64_t>(ceil_div(a.pad_left, a.stride_w), a.out_w));
  p.right = int32_t(a.out_w - std::min<int64_t>(end, a.out_w));
  const int64_t middle = int64_t{a.out_w} - p.left - p.right;
  const auto width = [&](int32_t n) {
    return n == 0 ? 0 : (std::max(n, p.advance) - 1) * a.stride_w + p.plan.window_w;
  };
  const int64_t ends = (width(p.left) + width(p.right)) * a.kernel_h;
  p.direct = middle >= p.advance && 4 * ends < 3 * a.stride_h * p.plan.row_w;
}

bool is_bounded(const ConvArgs& a) noexcept {
  for (int32_t c = 0; c < a.out_c; ++c) {
    int64_t sum = 0;
    for (int32_t k = 0; k < a.depth(); ++k) sum += std::abs(int{a.w[int64_t{c} * a.depth() + k]});
    const double most =
        std::min(255.0 * double(sum) + std::abs(double(a.epilogue.bias[c])), 0x1p31);
    if (!(most * std::abs(double(a.epilogue.scale[c])) < 0x1p30)) return false;
  }
  return true;
}

// Which weight of a channel a slot of a quad meets for an output of the run, or -1.
int32_t weight_at(const ConvArgs& a, const PackedDepthwise& p, int32_t quad, int32_t slot,
                  int32_t output) {
  if (p.run == 1) return quad * 4 + slot < a.depth() ? quad * 4 + slot : -1;
  const int32_t per_row = ceil_div(row_taps(a, p.run), 4);
  const int32_t column = quad % per_row * 4 + slot - output;
  return column >= 0 && column < a.kernel_w ? quad / per_row * a.kernel_w + column : -1;
}

// Slots beyond the taps read the last one again: their weights are 0.
DepthwiseTap tap_at(const ConvArgs& a, const PackedDepthwise& p, int32_t quad, int32_t slot) {
  if (p.run == 1) {
    const int32_t tap = std::min(quad * 4 + slot, a.depth() - 1);
    return {tap / a.kernel_w, tap % a.kernel_w};
  }
  const int32_t per_row = ceil_div(row_taps(a, p.run), 4);
  return {quad / per_row, std::min(quad % per_row * 4 + slot, row_taps(a, p.run) - 1)};
}

// One weight in the place where slot `slot` of lane `lane` of a vector is.
void put(const PackedDepthwise& p, int8_t* vector, int32_t lanes, int32_t lane, int32_t slot,
         int8_t value) {
  if (!p.pairs) {
    vector[lane * 4 + slot] = value;
    return;
  }
  const int16_t wide = value;  // [slots 0 and 2, then 1 and 3][lane][2]
  std::memcpy(vector + (((slot % 2) * lanes + lane) * 2 + slot / 2) * 2, &wide, sizeof(wide));
}

void pack_lane(const ConvArgs& a, const PackedDepthwise& p, int32_t c, int32_t vector, int32_t lane,
               int32_t lanes, int8_t* w) {
  const int8_t* taps = a.w + int64_t{c} * a.depth();
  const int32_t vector_bytes = lanes * (p.pairs ? 8 : 4);
  for (int32_t i = 0; i < p.n_quads * p.run; ++i) {
    for (int32_t slot = 0; slot < 4; ++slot) {
      const int32_t weight = weight_at(a, p, i / p.run, slot, i % p.run);
      if (weight < 0) continue;
      put(p, w + (int64_t{i} * kVectors + vector) * vector_bytes, lanes, lane, slot, taps[weight]);
    }
  }
}

int32_t bias_with_128(const ConvArgs& a, int32_t c) {
  const int8_t* w = a.w + int64_t{c} * a.depth();
  auto bias = uint32_t(a.epilogue.bias[c]);
  for (int32_t k = 0; k < a.depth(); ++k) bias += 128u * uint32_t(int32_t{w[k]});
  return int32_t(bias);
}

void pack_block(const ConvArgs& a, const PackedDepthwise& p, int32_t block, int32_t* constants) {
  const int32_t channels = p.channels_of(block);
  const int32_t width = channels <= kNarrowChannels ? kNarrowChannels : kWideChannels;
  const int32_t lanes = std::min(width, p.widest) / kVectors;
  int32_t* plain = constants + 2 * kWideChannels;
  auto* w = reinterpret_cast<int8_t*>(constants + PackedDepthwise::kConstants);
  for (int32_t vector = 0; vector < kVectors; ++vector) {
    for (int32_t lane = 0; lane < lanes; ++lane) {
      const int32_t channel = channel_of(vector, lane);
      if (channel >= channels) continue;
      const int32_t c = (block * p.widest + channel) % a.in_c;
      const Epilogue& e = a.epilogue;
      plain[channel] = p.subtracts_128 ? bias_with_128(a, c) : e.bias[c];
      std::memcpy(plain + kWideChannels + channel, e.scale + c, 4);
      if (e.float_bias != nullptr) {
        std::memcpy(plain + 2 * kWideChannels + channel, e.float_bias + c, 4);
      }
      constants[vector * lanes + lane] = plain[channel];
      constants[kWideChannels + vector * lanes + lane] = plain[kWideChannels + channel];
      pack_lane(a, p, c, vector, lane, lanes, w);
    }
  }
}

}  // namespace

PackedDepthwise PackedDepthwise::layout(const ConvArgs& a,
                                        const DepthwiseKernels& kernels) noexcept {
  PackedDepthwise p{};
  p.plan = plan_conv(a, 0);
  p.widest = kernels.widest;
  p.pairs = kernels.pairs;
  p.subtracts_128 = kernels.subtracts_128;
  p.pixels = pixels_of_vector(a, p.widest);
  p.run = p.pixels > 1 ? 1 : best_run(a);
  p.advance = p.run * p.pixels;
  p.n_quads = count_quads(a, p.run);
  p.channels = a.in_c * p.pixels;
  p.n_blocks = ceil_div(p.channels, p.widest);
  find_ends(a, p);
  const size_t weights = size_t(p.n_quads) * size_t(p.run) * size_t(p.widest) * (p.pairs ? 8 : 4);
  p.block_bytes = aligned(kConstants * 4 + weights);
  p.blocks_at = aligned(sizeof(p) + size_t(p.n_quads) * 4 * sizeof(DepthwiseTap));
  p.bytes = p.blocks_at + size_t(p.n_blocks) * p.block_bytes;
  return p;
}

void pack_depthwise(const ConvArgs& a, const PackedDepthwise& layout, uint8_t* packed) noexcept {
  std::memcpy(packed, &layout, sizeof(layout));
  auto& p = *reinterpret_cast<PackedDepthwise*>(packed);
  p.bounded = is_bounded(a);
  auto* taps = reinterpret_cast<DepthwiseTap*>(&p + 1);
  for (int32_t i = 0; i < p.n_quads * 4; ++i) taps[i] = tap_at(a, p, i / 4, i % 4);
  for (int32_t c = 0; c < p.n_blocks; ++c) {
    pack_block(a, p, c, const_cast<int32_t*>(p.constants(c)));
  }
}

}  // namespace qtool
