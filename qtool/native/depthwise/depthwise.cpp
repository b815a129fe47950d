#include "depthwise/depthwise.h"

#include <algorithm>
#include <cstring>

#include "lookup/lookup.h"

namespace qtool {
namespace {

template <typename T>
T ceil_div(T a, T b) {
  return (a + b - 1) / b;
}

size_t aligned(size_t bytes) { return ceil_div<size_t>(bytes, 64) * 64; }

// What pack() writes: this, offsets, then for each block of channels constants and weights.
struct Packed {
  ConvPlan plan;
  int32_t run, n_quads;
  int32_t n_blocks, widest;  // blocks of channels
  bool pairs;
  size_t block_bytes, blocks_at, bytes;

  static Packed layout(const ConvArgs& a, const DepthwiseKernels& kernels) noexcept;

  const int32_t* offsets() const noexcept { return reinterpret_cast<const int32_t*>(this + 1); }
  const int32_t* constants(int32_t block) const noexcept {
    return reinterpret_cast<const int32_t*>(reinterpret_cast<const uint8_t*>(this) + blocks_at +
                                            size_t(block) * block_bytes);
  }
  const int8_t* weights(int32_t block) const noexcept {
    return reinterpret_cast<const int8_t*>(constants(block) + kConstants);
  }
  int32_t channels(const ConvArgs& a, int32_t block) const noexcept {
    return std::min(widest, a.in_c - block * widest);
  }

  // bias and scale in packed order, then bias, scale and float bias in order.
  static constexpr int kConstants = 5 * kWideChannels;
};

constexpr int32_t kMostTaps = 1 << 12;  // larger kernels pack slowly, and are rare

// Taps of a row of the kernel that one run of outputs sees.
int32_t row_taps(const ConvArgs& a, int32_t run) noexcept { return a.kernel_w + run - 1; }

// One quad is [row][four neighbours]; a single output takes its taps four by four as they come.
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

Packed Packed::layout(const ConvArgs& a, const DepthwiseKernels& kernels) noexcept {
  Packed p{};
  p.plan = plan_conv(a, 0);
  p.run = best_run(a);
  p.n_quads = count_quads(a, p.run);
  p.widest = kernels.widest;
  p.pairs = kernels.pairs;
  p.n_blocks = ceil_div(a.in_c, p.widest);
  const size_t weights = size_t(p.n_quads) * size_t(p.run) * size_t(p.widest) * (p.pairs ? 8 : 4);
  p.block_bytes = aligned(kConstants * 4 + weights);
  p.blocks_at = aligned(sizeof(p) + size_t(p.n_quads) * 16);
  p.bytes = p.blocks_at + size_t(p.n_blocks) * p.block_bytes;
  return p;
}

// A tap of the kernel: which weight, or none.
int32_t tap_at(const ConvArgs& a, const Packed& p, int32_t quad, int32_t slot, int32_t output) {
  if (p.run == 1) return quad * 4 + slot < a.depth() ? quad * 4 + slot : -1;
  const int32_t per_row = ceil_div(row_taps(a, p.run), 4);
  const int32_t column = quad % per_row * 4 + slot - output;
  return column >= 0 && column < a.kernel_w ? quad / per_row * a.kernel_w + column : -1;
}

// Slots beyond the taps read the last one again: their weights are 0.
int32_t offset_at(const ConvArgs& a, const Packed& p, int32_t quad, int32_t slot) {
  int64_t row = 0, column = 0;
  if (p.run == 1) {
    const int32_t tap = std::min(quad * 4 + slot, a.depth() - 1);
    row = tap / a.kernel_w, column = tap % a.kernel_w;
  } else {
    const int32_t per_row = ceil_div(row_taps(a, p.run), 4);
    row = quad / per_row;
    column = std::min(quad % per_row * 4 + slot, row_taps(a, p.run) - 1);
  }
  return int32_t((row * a.dilation_h * p.plan.row_w + column * a.dilation_w) * p.plan.pitch);
}

// One weight in the place where `tap % 4` of channel `lane` of a vector is.
void put(const Packed& p, int8_t* vector, int32_t lanes, int32_t lane, int32_t slot, int8_t value) {
  if (!p.pairs) {
    vector[lane * 4 + slot] = value;
    return;
  }
  const int16_t wide = value;  // [slots 0 and 2, then 1 and 3][lane][2]
  std::memcpy(vector + (((slot % 2) * lanes + lane) * 2 + slot / 2) * 2, &wide, sizeof(wide));
}

void pack_block(const ConvArgs& a, const Packed& p, int32_t block, int32_t* constants) {
  const int32_t channels = p.channels(a, block), first = block * p.widest;
  const bool narrow = channels <= kNarrowChannels;
  const int32_t lanes = (narrow ? kNarrowChannels : kWideChannels) / kVectors;
  const Epilogue& e = a.epilogue;
  int32_t* plain = constants + 2 * kWideChannels;
  std::memcpy(plain, e.bias + first, size_t(channels) * 4);
  std::memcpy(plain + kWideChannels, e.scale + first, size_t(channels) * 4);
  if (e.float_bias != nullptr) {
    std::memcpy(plain + 2 * kWideChannels, e.float_bias + first, size_t(channels) * 4);
  }
  auto* w = reinterpret_cast<int8_t*>(constants + Packed::kConstants);
  const int32_t vector_bytes = lanes * (p.pairs ? 8 : 4);
  for (int32_t vector = 0; vector < kVectors; ++vector) {
    for (int32_t lane = 0; lane < lanes; ++lane) {
      const int32_t channel = channel_of(vector, lane);
      if (channel >= channels) continue;
      constants[vector * lanes + lane] = plain[channel];
      constants[kWideChannels + vector * lanes + lane] = plain[kWideChannels + channel];
      const int8_t* taps = a.w + int64_t{first + channel} * a.depth();
      for (int32_t i = 0; i < p.n_quads * p.run * 4; ++i) {
        const int32_t tap = tap_at(a, p, i / 4 / p.run, i % 4, i / 4 % p.run);
        if (tap < 0) continue;
        put(p, w + (int64_t{i / 4} * kVectors + vector) * vector_bytes, lanes, lane, i % 4,
            taps[tap]);
      }
    }
  }
}

// The outputs of one line of a block.
void run_line(const ConvCall& call, const Packed& p, const uint8_t* x, int64_t pixel,
              const DepthwiseKernels& kernels) noexcept {
  const ConvArgs& a = *call.args;
  const int64_t item = a.epilogue.float_output ? 4 : 1;
  DepthwiseLine l{};
  l.step = p.plan.step;
  l.n = a.out_w;
  l.n_quads = p.n_quads;
  l.offsets = p.offsets();
  l.epilogue = &a.epilogue;
  l.has_float_bias = a.epilogue.float_bias != nullptr;
  l.y_pitch = a.y_pitch * item;
  l.residual_pitch = a.residual_pitch;
  for (int32_t c = 0; c < p.n_blocks; ++c) {
    const int64_t first = int64_t{c} * p.widest;
    const int32_t* constants = p.constants(c);
    l.x = x + first;
    l.w = p.weights(c);
    l.bias = constants;
    l.scale = reinterpret_cast<const float*>(constants + kWideChannels);
    l.plain_constants = constants + 2 * kWideChannels;
    l.channels = p.channels(a, c);
    l.y = static_cast<uint8_t*>(call.y) + (pixel * a.y_pitch + first) * item;
    if (call.residual != nullptr) l.residual = call.residual + pixel * a.residual_pitch + first;
    const bool narrow = l.channels <= kNarrowChannels;
    (narrow ? kernels.narrow : kernels.wide)[p.run - 1](l);
    if (a.epilogue.table != nullptr) look_up({a.epilogue.table, l.y, l.n, l.channels, l.y_pitch});
  }
}

void run_blocks(const ConvCall& call, int64_t begin, int64_t end,
                const DepthwiseKernels& kernels) noexcept {
  const auto& p = *reinterpret_cast<const Packed*>(call.packed);
  for (int64_t unit = begin; unit < end; ++unit) {
    const ConvBlock block = open_block(call, p.plan, unit, call.scratch);
    for (int32_t line = 0; line < block.n_lines; ++line) {
      run_line(call, p, block.x + line * block.line_step,
               block.first_pixel + int64_t{line} * call.args->out_w, kernels);
    }
  }
}

#if defined(__x86_64__)
bool has_avx512vnni() noexcept { return __builtin_cpu_supports("avx512vnni"); }
#endif

bool always() noexcept { return true; }

template <const DepthwiseKernels& kernels>
struct Depthwise {
  static bool supports(const ConvArgs& a) noexcept {
    return a.groups == a.in_c && a.in_c == a.out_c && a.depth() <= kMostTaps &&
           plan_fits(a, plan_conv(a, 0));
  }

  static size_t packed_bytes(const ConvArgs& a) noexcept {
    return Packed::layout(a, kernels).bytes;
  }

  static void pack(const ConvArgs& a, uint8_t* packed) noexcept {
    const Packed p = Packed::layout(a, kernels);
    std::memcpy(packed, &p, sizeof(p));
    auto* offsets = reinterpret_cast<int32_t*>(packed + sizeof(p));
    for (int32_t i = 0; i < p.n_quads * 4; ++i) offsets[i] = offset_at(a, p, i / 4, i % 4);
    const auto& self = *reinterpret_cast<const Packed*>(packed);
    for (int32_t c = 0; c < p.n_blocks; ++c) {
      pack_block(a, p, c, const_cast<int32_t*>(self.constants(c)));
    }
  }

  static size_t scratch_bytes(const ConvArgs& a) noexcept {
    return plan_conv(a, 0).copy_bytes + kOverread;
  }

  static int64_t units(const ConvArgs& a) noexcept { return plan_conv(a, 0).n_blocks; }

  // Interleaving and multiplying, then the epilogue, for each 64 channels or part of them.
  static double cycles(const ConvArgs& a) noexcept {
    const Packed p = Packed::layout(a, kernels);
    const double per_output = p.n_quads * (8.0 / p.run + 4) / 2 + 14;
    return double(a.pixels()) * p.n_blocks * per_output * (kernels.pairs ? 1.5 : 1);
  }

  static void run(const ConvCall& call, int64_t begin, int64_t end) noexcept {
    run_blocks(call, begin, end, kernels);
  }
};

template <const DepthwiseKernels& kernels>
constexpr ConvVariant variant(const char* name, Isa isa, bool (*available)() noexcept) {
  using D = Depthwise<kernels>;
  return {name,     isa,       available, D::supports, D::packed_bytes, D::pack, D::scratch_bytes,
          D::units, D::cycles, D::run};
}

}  // namespace

#if defined(__x86_64__)
const ConvVariant depthwise_64__avx512vnni =
    variant<kDepthwiseAvx512Vnni>("depthwise_64__avx512vnni", Isa::kAvx512, has_avx512vnni);
const ConvVariant depthwise_32__avxvnni =
    variant<kDepthwiseAvxVnni>("depthwise_32__avxvnni", Isa::kAvxVnni, always);
const ConvVariant depthwise_32__avx2 =
    variant<kDepthwiseAvx2>("depthwise_32__avx2", Isa::kAvx2, always);
#endif

}  // namespace qtool
