#include <immintrin.h>

#include "histogram/kernels.h"

namespace qtool {
namespace {

constexpr size_t kLanes = 16;

// Rounded down, x * per_width + 2**23 + kBins is 2**23 + kBins + bin, whose low 16 bits are the
// result; the product is exact within it, so that nothing underflows.
constexpr float kMagic = 0x1p23f + kBins;

uint16_t* store_bins(__m512 x, __m512 scale, __m512 magic, uint16_t* bins) noexcept {
  constexpr int kDown = _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC;
  const __mmask16 counted = _mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_NEQ_OQ);
  const __m512i bin = _mm512_castps_si512(_mm512_fmadd_round_ps(x, scale, magic, kDown));
  const __m512i kept = _mm512_maskz_compress_epi32(counted, bin);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(bins), _mm512_cvtepi32_epi16(kept));
  return bins + __builtin_popcount(counted);
}

}  // namespace

size_t histogram_bin__avx512(const float* x, size_t n, float per_width, Extremes& extremes,
                             uint16_t* bins) noexcept {
  const __m512 scale = _mm512_set1_ps(per_width), magic = _mm512_set1_ps(kMagic);
  __m512i highest = _mm512_set1_epi32(extremes.highest);
  __m512i lowest = _mm512_set1_epi32(static_cast<int>(extremes.lowest));
  __m512i nearest = _mm512_set1_epi32(static_cast<int>(extremes.nearest));
  uint16_t* out = bins;
  size_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const __m512 v = _mm512_loadu_ps(x + i);
    const __m512i bits = _mm512_castps_si512(v);
    highest = _mm512_max_epi32(highest, bits);
    lowest = _mm512_max_epu32(lowest, bits);
    nearest = _mm512_min_epu32(nearest, bits);
    out = store_bins(v, scale, magic, out);
  }
  if (i < n) {
    const __mmask16 rest = static_cast<__mmask16>((1u << (n - i)) - 1);
    const __m512 v = _mm512_maskz_loadu_ps(rest, x + i);
    const __m512i bits = _mm512_castps_si512(v);
    highest = _mm512_mask_max_epi32(highest, rest, highest, bits);
    lowest = _mm512_mask_max_epu32(lowest, rest, lowest, bits);
    nearest = _mm512_mask_min_epu32(nearest, rest, nearest, bits);
    out = store_bins(v, scale, magic, out);
  }
  extremes.highest = _mm512_reduce_max_epi32(highest);
  extremes.lowest = _mm512_reduce_max_epu32(lowest);
  extremes.nearest = _mm512_reduce_min_epu32(nearest);
  return static_cast<size_t>(out - bins);
}

}  // namespace qtool
