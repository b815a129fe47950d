// The variants that are register tiles, one for each width of a panel.
#include "conv/tiled.h"

namespace qtool {
namespace {

// What a kernel table costs, in cycles.
struct Costs {
  double quad[kMostBlocks];   // a pixel, 4 deep, of a panel 1, 2, 3, 4 blocks wide
  double store[kMostBlocks];  // a pixel's epilogue
  double tile;                // starting a tile
};

bool has_avx512vnni() noexcept {
#if defined(__x86_64__)
  return __builtin_cpu_supports("avx512vnni");
#else
  return false;
#endif
}

template <const GemmTileKernels& kernels, const Costs& costs, int blocks>
struct Tiled {
  static PackedConv layout(const ConvArgs& a) noexcept {
    return PackedConv::layout(a, plan_conv(a, kernels.rows[blocks - 1]), 4, blocks);
  }

  static bool supports(const ConvArgs& a) noexcept {
    return plan_fits(a, plan_conv(a, kernels.rows[blocks - 1]));
  }

  static size_t packed_bytes(const ConvArgs& a) noexcept { return layout(a).bytes; }

  static void pack(const ConvArgs& a, uint8_t* packed) noexcept { pack_conv(a, layout(a), packed); }

  static size_t scratch_bytes(const ConvArgs& a) noexcept {
    return tiled_scratch_bytes(layout(a).plan);
  }

  static int64_t units(const ConvArgs& a) noexcept { return layout(a).n_units(a); }

  static void run(const ConvCall& call, int64_t begin, int64_t end) noexcept {
    run_tiled(call, begin, end, kernels);
  }

  static double cycles(const ConvArgs& a) noexcept {
    const PackedConv l = layout(a);
    const double quads = double(l.plan.n_segments) * l.segment_steps;
    double sum = 0;
    for (int64_t panel = 0; panel < l.n_panels; ++panel) {
      const int nr = (l.channels(panel) + kLanes - 1) / kLanes;
      const double tiles = double(a.pixels()) / kernels.rows[nr - 1];
      sum += double(a.pixels()) * (quads * costs.quad[nr - 1] + costs.store[nr - 1]) +
             tiles * costs.tile;
    }
    return sum * a.groups;
  }
};

}  // namespace

#define QTOOL_TILED(identifier, isa, kernels, costs, available, blocks)         \
  const ConvVariant identifier = {#identifier,                                  \
                                  isa,                                          \
                                  available,                                    \
                                  Tiled<kernels, costs, blocks>::supports,      \
                                  Tiled<kernels, costs, blocks>::packed_bytes,  \
                                  Tiled<kernels, costs, blocks>::pack,          \
                                  Tiled<kernels, costs, blocks>::scratch_bytes, \
                                  Tiled<kernels, costs, blocks>::units,         \
                                  Tiled<kernels, costs, blocks>::cycles,        \
                                  Tiled<kernels, costs, blocks>::run};

#if defined(__x86_64__)
constexpr Costs kVnniCosts = {{0.75, 1.2, 1.7, 2.1}, {10, 14, 18, 22}, 40};
QTOOL_TILED(conv_6x64__avx512vnni, Isa::kAvx512, kGemmAvx512Vnni, kVnniCosts, has_avx512vnni, 4)
QTOOL_TILED(conv_8x48__avx512vnni, Isa::kAvx512, kGemmAvx512Vnni, kVnniCosts, has_avx512vnni, 3)
QTOOL_TILED(conv_8x32__avx512vnni, Isa::kAvx512, kGemmAvx512Vnni, kVnniCosts, has_avx512vnni, 2)
QTOOL_TILED(conv_8x16__avx512vnni, Isa::kAvx512, kGemmAvx512Vnni, kVnniCosts, has_avx512vnni, 1)
#endif

}  // namespace qtool
