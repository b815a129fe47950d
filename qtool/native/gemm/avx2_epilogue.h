// The epilogue on vectors of 8 accumulators. For files compiled for AVX2 only; everything here has
// internal linkage.
#pragma once

#include <immintrin.h>

#include <cstring>

#include "gemm/tile.h"

namespace qtool {
namespace {

// What all pixels of a tile share.
struct VectorEpilogue {
  explicit VectorEpilogue(const Epilogue& e)
      : y_top(_mm256_set1_ps(float(e.y_max - e.y_zero_point))),
        y_bottom(_mm256_set1_ps(float(e.y_min - e.y_zero_point))),
        zero_point(_mm256_set1_epi16(int16_t(e.has_residual ? e.sum_zero_point : e.y_zero_point))),
        low(_mm256_set1_epi8(int8_t(e.has_residual ? e.sum_min : e.y_min))),
        high(_mm256_set1_epi8(int8_t(e.has_residual ? e.sum_max : e.y_max))),
        y_ratio(_mm256_set1_ps(e.y_ratio)),
        residual_ratio(_mm256_set1_ps(e.residual_ratio)),
        sum_top(_mm256_set1_ps(float(e.sum_max - e.sum_zero_point))),
        residual_zero(_mm256_set1_epi32(e.residual_zero_point)) {}

  __m256 y_top, y_bottom;
  __m256i zero_point, low, high;  // of what is stored
  __m256 y_ratio, residual_ratio, sum_top;
  __m256i residual_zero;
};

// Rounded and not yet above y_max; below, packing saturates: what no int32 holds is negative there.
static inline __m256i steps(const VectorEpilogue& v, __m256i acc, __m256 scale) {
  const __m256 real = _mm256_mul_ps(_mm256_cvtepi32_ps(acc), scale);
  return _mm256_cvtps_epi32(_mm256_min_ps(real, v.y_top));
}

static inline __m256i steps_of_sum(const VectorEpilogue& v, __m256i acc, __m256 scale,
                                   __m128i residual) {
  const __m256 real = _mm256_mul_ps(_mm256_cvtepi32_ps(acc), scale);
  const __m256 whole = _mm256_round_ps(real, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const __m256 y = _mm256_max_ps(_mm256_min_ps(whole, v.y_top), v.y_bottom);
  const __m256i r = _mm256_sub_epi32(_mm256_cvtepu8_epi32(residual), v.residual_zero);
  const __m256 sum = _mm256_add_ps(_mm256_mul_ps(y, v.y_ratio),
                                   _mm256_mul_ps(_mm256_cvtepi32_ps(r), v.residual_ratio));
  return _mm256_cvtps_epi32(_mm256_min_ps(v.sum_top, sum));  // a NaN stays one, and gives the least
}

// 4 x 8 steps -> 4 x 8 bytes, in each half 4 of a, 4 of b, 4 of c, 4 of d; zero point added,
// clamped.
static inline __m256i pack_steps(const VectorEpilogue& v, __m256i a, __m256i b, __m256i c,
                                 __m256i d) {
  const __m256i ab = _mm256_adds_epi16(_mm256_packs_epi32(a, b), v.zero_point);
  const __m256i cd = _mm256_adds_epi16(_mm256_packs_epi32(c, d), v.zero_point);
  const __m256i bytes = _mm256_packus_epi16(ab, cd);
  return _mm256_max_epu8(_mm256_min_epu8(bytes, v.high), v.low);
}

// 8 values of p, the first n of them.
static inline __m128i load_bytes(const uint8_t* p, int32_t n) {
  uint64_t bytes = 0;
  if (n > 0) std::memcpy(&bytes, p, n < 8 ? size_t(n) : 8);
  return _mm_cvtsi64_si128(int64_t(bytes));
}

static inline void store_floats(const GemmTile& t, __m256i acc, int first, float* y) {
  __m256 real = _mm256_mul_ps(_mm256_cvtepi32_ps(acc), _mm256_loadu_ps(t.scale + first));
  if (t.float_bias != nullptr) real = _mm256_add_ps(real, _mm256_loadu_ps(t.float_bias + first));
  alignas(32) float values[8];
  _mm256_store_ps(values, real);
  const int32_t n = t.channels - first;
  if (n > 0) std::memcpy(y + first, values, size_t(n < 8 ? n : 8) * sizeof(float));
}

// One pixel of 16 channels from first on, whatever the epilogue.
static inline void store_block(const GemmTile& t, const VectorEpilogue& v, __m256i a, __m256i b,
                               int first, int row) {
  const Epilogue& e = *t.epilogue;
  uint8_t* y = t.y + row * t.y_pitch;
  if (e.float_output) {
    store_floats(t, a, first, reinterpret_cast<float*>(y));
    store_floats(t, b, first + 8, reinterpret_cast<float*>(y));
    return;
  }
  const __m256 scale_a = _mm256_loadu_ps(t.scale + first);
  const __m256 scale_b = _mm256_loadu_ps(t.scale + first + 8);
  const int32_t n = t.channels - first;
  if (e.has_residual) {
    const uint8_t* r = t.residual + row * t.residual_pitch + first;
    a = steps_of_sum(v, a, scale_a, load_bytes(r, n));
    b = steps_of_sum(v, b, scale_b, load_bytes(r + 8, n - 8));
  } else {
    a = steps(v, a, scale_a);
    b = steps(v, b, scale_b);
  }
  // Halves of 0 1 | 2 3 fours -> 0 2 | 1 3: the low half then holds all 16 in order.
  const __m256i packed = pack_steps(v, a, b, a, b);
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 0, 4, 1, 5);
  const __m128i bytes = _mm256_castsi256_si128(_mm256_permutevar8x32_epi32(packed, order));
  if (n >= kLanes) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(y + first), bytes);
    return;
  }
  alignas(16) uint8_t values[kLanes];
  _mm_store_si128(reinterpret_cast<__m128i*>(values), bytes);
  std::memcpy(y + first, values, size_t(n));
}

}  // namespace
}  // namespace qtool
