#include "peak/peak.h"

#include <algorithm>
#include <chrono>

#include "isa.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace qtool {
namespace {

constexpr int kChains = 12;  // independent sums, so that latency does not count
constexpr int64_t kTrySteps = 20000;

#if defined(__x86_64__)

// The loop is written out, as a compiler may keep sums in memory. What the registers hold does not
// matter: integer instructions take the same time for all values.
#define QTOOL_CHAINS(step) \
  step(0) step(1) step(2) step(3) step(4) step(5) step(6) step(7) step(8) step(9) step(10) step(11)
#define QTOOL_LOOP(step)                                                                       \
  asm volatile("1:\n\t" QTOOL_CHAINS(step) "dec %0\n\tjnz 1b\n\tvzeroupper"                    \
               : "+r"(steps)                                                                   \
               :                                                                               \
               : "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", \
                 "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15")

// vpmaddwd and vpaddd: 16 products of 8-bit integers widened to 16, as no 8-bit one is exact.
#define QTOOL_STEP(i) \
  "vpmaddwd %%ymm15, %%ymm14, %%ymm13\n\tvpaddd %%ymm13, %%ymm" #i ", %%ymm" #i "\n\t"
void run_avx2(int64_t steps) noexcept { QTOOL_LOOP(QTOOL_STEP); }
#undef QTOOL_STEP

#define QTOOL_STEP(i) "%{vex%} vpdpbusd %%ymm15, %%ymm14, %%ymm" #i "\n\t"
void run_avxvnni(int64_t steps) noexcept { QTOOL_LOOP(QTOOL_STEP); }
#undef QTOOL_STEP

#define QTOOL_STEP(i) "vpdpbusd %%zmm15, %%zmm14, %%zmm" #i "\n\t"
void run_avx512vnni(int64_t steps) noexcept { QTOOL_LOOP(QTOOL_STEP); }
#undef QTOOL_STEP

// Multiply-accumulates of float32: the peak that float layers have.
#define QTOOL_STEP(i) "vfmadd231ps %%ymm15, %%ymm14, %%ymm" #i "\n\t"
void run_fma_avx2(int64_t steps) noexcept { QTOOL_LOOP(QTOOL_STEP); }
#undef QTOOL_STEP

#define QTOOL_STEP(i) "vfmadd231ps %%zmm15, %%zmm14, %%zmm" #i "\n\t"
void run_fma_avx512(int64_t steps) noexcept { QTOOL_LOOP(QTOOL_STEP); }
#undef QTOOL_STEP

// What ldtilecfg reads.
struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};

constexpr int kTileRows = 16, kTileBytes = 64;

// Four sums of tiles, as the kernels hold them.
__attribute__((target("amx-tile,amx-int8"))) void run_amx(int64_t steps) noexcept {
  TileConfig config;
  for (int i = 0; i < 8; ++i) config.row_bytes[i] = kTileBytes, config.rows[i] = kTileRows;
  static const int8_t ones[kTileRows * kTileBytes] = {1};
  asm volatile("" : : "r"(&config) : "memory");  // gcc 12 does not know what ldtilecfg reads
  _tile_loadconfig(&config);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  _tile_loadd(4, ones, kTileBytes);
  _tile_loadd(5, ones, kTileBytes);
  _tile_loadd(6, ones, kTileBytes);
  _tile_loadd(7, ones, kTileBytes);
  for (int64_t step = 0; step < steps; ++step) {
    _tile_dpbusd(0, 4, 6);
    _tile_dpbusd(1, 4, 7);
    _tile_dpbusd(2, 5, 6);
    _tile_dpbusd(3, 5, 7);
  }
  _tile_release();
}

bool has_avx2() noexcept { return supports(Isa::kAvx2); }
bool has_avxvnni() noexcept { return supports(Isa::kAvxVnni); }
bool has_avx512vnni() noexcept {
  return supports(Isa::kAvx512) && __builtin_cpu_supports("avx512vnni");
}
bool has_avx512() noexcept { return supports(Isa::kAvx512); }
bool has_amx() noexcept { return supports(Isa::kAmx); }

const Peak kPeaks[] = {
    {"amx", &has_amx, 4 * kTileRows * kTileRows * kTileBytes, &run_amx},
    {"avx512vnni", &has_avx512vnni, kChains * 64, &run_avx512vnni},
    {"avxvnni", &has_avxvnni, kChains * 32, &run_avxvnni},
    {"avx2", &has_avx2, kChains * 16, &run_avx2},
    {"fma-avx512", &has_avx512, kChains * 16, &run_fma_avx512},
    {"fma-avx2", &has_avx2, kChains * 8, &run_fma_avx2},
};
constexpr int kPeakCount = sizeof(kPeaks) / sizeof(kPeaks[0]);

#else
const Peak* const kPeaks = nullptr;
constexpr int kPeakCount = 0;
#endif

double now() {
  using std::chrono::steady_clock;
  return std::chrono::duration<double>(steady_clock::now().time_since_epoch()).count();
}

}  // namespace

int n_peaks() noexcept { return kPeakCount; }

const Peak& peak(int i) noexcept { return kPeaks[i]; }

double measure_peak(const Peak& peak, double seconds) {
  if (!peak.supported()) return 0;
  double best = 0;
  for (const double end = now() + seconds; now() < end;) {
    const double start = now();
    peak.run(kTrySteps);
    best = std::max(best, double(peak.macs) * kTrySteps / (now() - start));
  }
  return best / 1e9;
}

}  // namespace qtool
