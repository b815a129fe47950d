#include <immintrin.h>

#include "histogram/one.h"

namespace qtool {
namespace {

constexpr size_t kLanes = 8;

// order[mask] moves the 16-bit lanes whose bit is set to the front, for pshufb.
struct Compress {
  alignas(16) uint8_t order[256][16];

  constexpr Compress() : order() {
    for (int mask = 0; mask < 256; ++mask) {
      int kept = 0;
      for (int lane = 0; lane < 8; ++lane) {
        if ((mask >> lane & 1) == 0) continue;
        order[mask][2 * kept] = static_cast<uint8_t>(2 * lane);
        order[mask][2 * kept + 1] = static_cast<uint8_t>(2 * lane + 1);
        ++kept;
      }
    }
  }
};

constexpr Compress kCompress;

}  // namespace

void histogram_scan__avx2(const float* x, size_t n, Extremes& extremes) noexcept {
  const __m256i mask = _mm256_set1_epi32(0x7fffffff);
  __m256i magnitude = _mm256_setzero_si256();
  __m256 minimum = _mm256_set1_ps(extremes.minimum), maximum = _mm256_set1_ps(extremes.maximum);
  size_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const __m256 v = _mm256_loadu_ps(x + i);
    magnitude = _mm256_max_epu32(magnitude, _mm256_and_si256(_mm256_castps_si256(v), mask));
    minimum = _mm256_min_ps(v, minimum);
    maximum = _mm256_max_ps(v, maximum);
  }
  uint32_t magnitudes[kLanes];
  float minima[kLanes], maxima[kLanes];
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(magnitudes), magnitude);
  _mm256_storeu_ps(minima, minimum);
  _mm256_storeu_ps(maxima, maximum);
  for (size_t lane = 0; lane < kLanes; ++lane) {
    if (magnitudes[lane] > extremes.magnitude) extremes.magnitude = magnitudes[lane];
    if (minima[lane] < extremes.minimum) extremes.minimum = minima[lane];
    if (maxima[lane] > extremes.maximum) extremes.maximum = maxima[lane];
  }
  for (; i < n; ++i) scan_one(x[i], extremes);
}

size_t histogram_bin__avx2(const float* x, size_t n, float per_width, uint16_t* bins) noexcept {
  const __m256 scale = _mm256_set1_ps(per_width), zero = _mm256_setzero_ps();
  const __m256i origin = _mm256_set1_epi32(kBins);
  uint16_t* out = bins;
  size_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const __m256 v = _mm256_loadu_ps(x + i);
    const __m256 scaled = _mm256_mul_ps(v, scale);
    // A negative product that underflowed to 0 belongs to bin -1: all ones, which is -1.
    const __m256 lost =
        _mm256_and_ps(_mm256_cmp_ps(scaled, zero, _CMP_EQ_OQ), _mm256_cmp_ps(v, zero, _CMP_LT_OQ));
    __m256i bin = _mm256_cvttps_epi32(_mm256_floor_ps(scaled));
    bin = _mm256_add_epi32(_mm256_or_si256(bin, _mm256_castps_si256(lost)), origin);
    const __m128i packed =
        _mm_packus_epi32(_mm256_castsi256_si128(bin), _mm256_extracti128_si256(bin, 1));
    const int counted = _mm256_movemask_ps(_mm256_cmp_ps(v, zero, _CMP_NEQ_OQ));
    const __m128i order =
        _mm_load_si128(reinterpret_cast<const __m128i*>(kCompress.order[counted]));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm_shuffle_epi8(packed, order));
    out += __builtin_popcount(static_cast<unsigned>(counted));
  }
  out += bin_rest(x + i, n - i, per_width, out);
  return static_cast<size_t>(out - bins);
}

}  // namespace qtool
