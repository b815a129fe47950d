// The variants that are register tiles, one for each width of a panel.
#include "conv/pairs.h"
#include "conv/tiled.h"
#include "runtime/memory.h"

namespace qtool {
namespace {

// What a kernel table costs, in cycles.
struct Costs {
  double quad[kMostBlocks];   // a pixel, 4 deep, of a panel 1, 2, 3, 4 blocks wide
  double store[kMostBlocks];  // a pixel's epilogue
  double tile;                // starting a tile
};

#if defined(__x86_64__)
bool has_avx512vnni() noexcept { return __builtin_cpu_supports("avx512vnni"); }
#endif

[[maybe_unused]] bool always() noexcept { return true; }

template <const GemmTileKernels& kernels, const Costs& costs, int blocks>
struct Tiled {
  static PackedConv layout(const ConvArgs& a) noexcept {
    return PackedConv::layout(a, plan_conv(a, kernels.rows[blocks - 1]), 4, blocks);
  }

  static bool supports(const ConvArgs& a) noexcept {
    return plan_fits(a, plan_conv(a, kernels.rows[blocks - 1]));
  }

  static size_t packed_bytes(const ConvArgs& a) noexcept {
    const PackedConv l = layout(a);
    if (!kernels.adds_pairs) return l.bytes;
    const Memory trial(l.bytes);
    pack_conv(a, l, trial.data());
    const auto& packed = *reinterpret_cast<const PackedConv*>(trial.data());
    return l.bytes + extra_bytes(a, packed, count_extra(a, packed));
  }

  static void pack(const ConvArgs& a, uint8_t* packed) noexcept {
    pack_conv(a, layout(a), packed);
    if (kernels.adds_pairs) split_pairs(a, *reinterpret_cast<PackedConv*>(packed));
    if (kernels.subtracts_128) add_128_sums(*reinterpret_cast<PackedConv*>(packed));
  }

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

template <const GemmTileKernels& kernels, const Costs& costs, int blocks>
constexpr ConvVariant variant(const char* name, Isa isa, bool (*available)() noexcept) {
  using T = Tiled<kernels, costs, blocks>;
  return {name,     isa,       available, T::supports, T::packed_bytes, T::pack, T::scratch_bytes,
          T::units, T::cycles, T::run};
}

#if defined(__x86_64__)
constexpr Costs kVnniCosts = {{0.75, 1.2, 1.7, 2.1}, {10, 14, 18, 22}, 40};
constexpr Costs kAvxVnniCosts = {{1.2}, {20}, 40};
constexpr Costs kAvx2Costs = {{2.4}, {20}, 40};
#elif defined(__aarch64__)
constexpr Costs kNeonI8mmCosts = {{2}, {20}, 40};
constexpr Costs kNeonDotCosts = {{2.1}, {20}, 40};
constexpr Costs kNeonCosts = {{8}, {24}, 40};
#endif

}  // namespace

#if defined(__x86_64__)
#define QTOOL_VNNI(name, blocks) \
  const ConvVariant name =       \
      variant<kGemmAvx512Vnni, kVnniCosts, blocks>(#name, Isa::kAvx512, has_avx512vnni);

QTOOL_VNNI(conv_6x64__avx512vnni, 4)
QTOOL_VNNI(conv_8x48__avx512vnni, 3)
QTOOL_VNNI(conv_8x32__avx512vnni, 2)
QTOOL_VNNI(conv_8x16__avx512vnni, 1)

const ConvVariant conv_6x16__avxvnni =
    variant<kGemmAvxVnni, kAvxVnniCosts, 1>("conv_6x16__avxvnni", Isa::kAvxVnni, always);
const ConvVariant conv_5x16__avx2 =
    variant<kGemmAvx2, kAvx2Costs, 1>("conv_5x16__avx2", Isa::kAvx2, always);
#elif defined(__aarch64__)
const ConvVariant conv_6x16__neoni8mm =
    variant<kGemmNeonI8mm, kNeonI8mmCosts, 1>("conv_6x16__neoni8mm", Isa::kNeon, has_arm_i8mm);
const ConvVariant conv_6x16__neondot =
    variant<kGemmNeonDot, kNeonDotCosts, 1>("conv_6x16__neondot", Isa::kNeon, has_arm_dotprod);
const ConvVariant conv_3x16__neon =
    variant<kGemmNeon, kNeonCosts, 1>("conv_3x16__neon", Isa::kNeon, always);
#endif

}  // namespace qtool
