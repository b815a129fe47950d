#include <immintrin.h>

#include "histogram/kernels.h"

namespace qtool {
namespace {

constexpr size_t kLanes = 16;

__mmask16 first_lanes(size_t n) noexcept {
  return static_cast<__mmask16>(n >= kLanes ? 0xffffu : (1u << n) - 1);
}

}  // namespace

void histogram_scan__avx512(const float* x, size_t n, Extremes& extremes) noexcept {
  const __m512i mask = _mm512_set1_epi32(0x7fffffff);
  __m512i magnitude = _mm512_set1_epi32(static_cast<int>(extremes.magnitude));
  __m512 minimum = _mm512_set1_ps(extremes.minimum), maximum = _mm512_set1_ps(extremes.maximum);
  for (size_t i = 0; i < n; i += kLanes) {
    const __mmask16 lanes = first_lanes(n - i);
    const __m512 v = _mm512_maskz_loadu_ps(lanes, x + i);
    magnitude = _mm512_max_epu32(magnitude, _mm512_and_si512(_mm512_castps_si512(v), mask));
    minimum = _mm512_mask_min_ps(minimum, lanes, minimum, v);
    maximum = _mm512_mask_max_ps(maximum, lanes, maximum, v);
  }
  extremes = {static_cast<uint32_t>(_mm512_reduce_max_epu32(magnitude)),
              _mm512_reduce_min_ps(minimum), _mm512_reduce_max_ps(maximum)};
}

// Rounding down in the multiplication, too, keeps a product that underflows below 0.
size_t histogram_bin__avx512(const float* x, size_t n, float per_width, uint16_t* bins) noexcept {
  constexpr int kDown = _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC;
  const __m512 scale = _mm512_set1_ps(per_width);
  const __m512i origin = _mm512_set1_epi32(kBins);
  uint16_t* out = bins;
  for (size_t i = 0; i < n; i += kLanes) {
    const __m512 v = _mm512_maskz_loadu_ps(first_lanes(n - i), x + i);
    const __mmask16 counted = _mm512_cmp_ps_mask(v, _mm512_setzero_ps(), _CMP_NEQ_OQ);
    __m512i bin = _mm512_cvt_roundps_epi32(_mm512_mul_round_ps(v, scale, kDown), kDown);
    bin = _mm512_maskz_compress_epi32(counted, _mm512_add_epi32(bin, origin));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), _mm512_cvtepi32_epi16(bin));
    out += __builtin_popcount(counted);
  }
  return static_cast<size_t>(out - bins);
}

}  // namespace qtool
