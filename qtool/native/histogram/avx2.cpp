#include <immintrin.h>

#include "histogram/compress.h"
#include "histogram/one.h"

namespace qtool {
namespace {

constexpr size_t kLanes = 8;

constexpr Compress<kLanes> kCompress;

}  // namespace

size_t histogram_bin__avx2(const float* x, size_t n, float per_width, Extremes& extremes,
                           uint16_t* bins) noexcept {
  const __m256 scale = _mm256_set1_ps(per_width), zero = _mm256_setzero_ps();
  const __m256i origin = _mm256_set1_epi32(kBins);
  __m256i highest = _mm256_set1_epi32(extremes.highest);
  __m256i lowest = _mm256_set1_epi32(static_cast<int>(extremes.lowest));
  __m256i nearest = _mm256_set1_epi32(static_cast<int>(extremes.nearest));
  uint16_t* out = bins;
  size_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const __m256 v = _mm256_loadu_ps(x + i);
    const __m256i bits = _mm256_castps_si256(v);
    highest = _mm256_max_epi32(highest, bits);
    lowest = _mm256_max_epu32(lowest, bits);
    nearest = _mm256_min_epu32(nearest, bits);

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
  alignas(32) int32_t tops[kLanes], bottoms[kLanes], rests[kLanes];
  _mm256_store_si256(reinterpret_cast<__m256i*>(tops), highest);
  _mm256_store_si256(reinterpret_cast<__m256i*>(bottoms), lowest);
  _mm256_store_si256(reinterpret_cast<__m256i*>(rests), nearest);
  for (size_t lane = 0; lane < kLanes; ++lane) {
    merge_lane(tops[lane], static_cast<uint32_t>(bottoms[lane]), static_cast<uint32_t>(rests[lane]),
               extremes);
  }
  out += bin_rest(x + i, n - i, per_width, extremes, out);
  return static_cast<size_t>(out - bins);
}

}  // namespace qtool
