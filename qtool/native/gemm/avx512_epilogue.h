// The epilogue on vectors of 16 accumulators. For files compiled for AVX-512 only; everything here
// has internal linkage.
#pragma once

#include <immintrin.h>

#include "gemm/tile.h"

namespace qtool {
namespace {

// 2^23 + b has b in its lowest byte.
constexpr float kFloatOfByte = 8388608;

// What all pixels of a tile share.
struct VectorEpilogue {
  explicit VectorEpilogue(const Epilogue& e)
      : y_top(_mm512_set1_ps(float(e.y_max - e.y_zero_point))),
        zero_point(_mm512_set1_epi16(int16_t(e.y_zero_point))),
        low(_mm512_set1_epi8(int8_t(e.y_min))),
        high(_mm512_set1_epi8(int8_t(e.y_max))) {
    if (!e.has_residual) return;
    y_most = _mm512_set1_epi32(e.y_max - e.y_zero_point);
    y_least = _mm512_set1_epi32(e.y_min - e.y_zero_point);
    y_ratio = _mm512_set1_ps(e.y_ratio);
    residual_zero = _mm512_set1_ps(kFloatOfByte + float(e.residual_zero_point));
    residual_ratio = _mm512_set1_ps(e.residual_ratio);
    sum_top = _mm512_set1_ps(float(e.sum_max - e.sum_zero_point));
    zero_point = _mm512_set1_epi16(int16_t(e.sum_zero_point));
    low = _mm512_set1_epi8(int8_t(e.sum_min));
    high = _mm512_set1_epi8(int8_t(e.sum_max));
  }

  __m512 y_top;
  __m512i zero_point, low, high;  // of what is stored
  __m512 y_ratio, residual_ratio, sum_top;
  __m512 residual_zero;
  __m512i y_most, y_least;
};

// Rounded; packing saturates. A product beyond int32 would convert to the least of all: where that
// cannot be excluded (bounded), it is first cut to y_max. Below, the least is what is wanted.
template <bool bounded = false>
static inline __m512i steps(const VectorEpilogue& v, __m512i acc, __m512 scale) {
  const __m512 real = _mm512_mul_ps(_mm512_cvtepi32_ps(acc), scale);
  return _mm512_cvtps_epi32(bounded ? real : _mm512_min_ps(real, v.y_top));
}

// Of 16 bytes: (r - zero point) * ratio. Bytes become floats by being put into one.
static inline __m512 residual_part(const VectorEpilogue& v, __m512i bytes) {
  const __m512 r = _mm512_castsi512_ps(bytes);
  return _mm512_mul_ps(_mm512_sub_ps(r, v.residual_zero), v.residual_ratio);
}

static inline __m512 residual_of(const VectorEpilogue& v, const uint8_t* r) {
  const __m512i all = _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(r)));
  const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  const __m512i floats = _mm512_castps_si512(_mm512_set1_ps(kFloatOfByte));
  return residual_part(v, _mm512_mask_shuffle_epi8(floats, 0x1111111111111111, all, lanes));
}

static inline __m512 residual_of(const VectorEpilogue& v, const uint8_t* r, __mmask16 few) {
  const __m512i bytes = _mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(few, r));
  const __m512i floats = _mm512_castps_si512(_mm512_set1_ps(kFloatOfByte));
  return residual_part(v, _mm512_or_si512(bytes, floats));
}

template <bool bounded = false>
static inline __m512i steps_of_sum(const VectorEpilogue& v, __m512i acc, __m512 scale,
                                   __m512 residual) {
  const __m512i q =
      _mm512_max_epi32(_mm512_min_epi32(steps<bounded>(v, acc, scale), v.y_most), v.y_least);
  const __m512 sum = _mm512_add_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(q), v.y_ratio), residual);
  // A NaN stays one, and converts to the least.
  return _mm512_cvtps_epi32(bounded ? sum : _mm512_min_ps(v.sum_top, sum));
}

// 4 x 16 steps -> 64 bytes in order, of a zero point of 0 and the range of a byte.
static inline __m512i pack_plain(__m512i a, __m512i b, __m512i c, __m512i d) {
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  const __m512i bytes = _mm512_packus_epi16(_mm512_packs_epi32(a, b), _mm512_packs_epi32(c, d));
  return _mm512_permutexvar_epi32(order, bytes);
}

// Whether pack_plain() is all that what is stored needs.
static inline bool packs_plain(const Epilogue& e) {
  return e.has_residual ? e.sum_zero_point == 0 && e.sum_min == 0 && e.sum_max == 255
                        : e.y_zero_point == 0 && e.y_min == 0 && e.y_max == 255;
}

// 4 x 16 steps -> 64 bytes in order, zero point added, clamped.
static inline __m512i pack_steps(const VectorEpilogue& v, __m512i a, __m512i b, __m512i c,
                                 __m512i d) {
  const __m512i ab = _mm512_adds_epi16(_mm512_packs_epi32(a, b), v.zero_point);
  const __m512i cd = _mm512_adds_epi16(_mm512_packs_epi32(c, d), v.zero_point);
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  const __m512i bytes = _mm512_permutexvar_epi32(order, _mm512_packus_epi16(ab, cd));
  return _mm512_max_epu8(_mm512_min_epu8(bytes, v.high), v.low);
}

static inline __mmask64 first_channels(int32_t channels) {
  return channels >= 64 ? ~__mmask64{0} : (__mmask64{1} << channels) - 1;
}

static inline __mmask16 block_mask(int32_t channels, int block) {
  const int32_t left = channels - block * kLanes;
  return left >= kLanes ? __mmask16(0xffff) : left <= 0 ? __mmask16(0) : __mmask16((1 << left) - 1);
}

template <int nr, bool plain = false>
[[gnu::always_inline]] static inline void store_bytes(const GemmTile& t, const VectorEpilogue& v,
                                                      const __m512i* q, uint8_t* y) {
  const __m512i &b = q[nr > 1 ? 1 : 0], &c = q[nr > 2 ? 2 : 0], &d = q[nr > 3 ? 3 : 0];
  const __m512i bytes = plain ? pack_plain(q[0], b, c, d) : pack_steps(v, q[0], b, c, d);
  _mm512_mask_storeu_epi8(y, first_channels(t.channels), bytes);
}

static inline void store_floats(const GemmTile& t, __m512i acc, int block, float* y) {
  const int first = block * kLanes;
  __m512 real = _mm512_mul_ps(_mm512_cvtepi32_ps(acc), _mm512_loadu_ps(t.scale + first));
  if (t.float_bias != nullptr) real = _mm512_add_ps(real, _mm512_loadu_ps(t.float_bias + first));
  _mm512_mask_storeu_ps(y + first, block_mask(t.channels, block), real);
}

// One pixel of accumulators that are in memory, whatever the epilogue.
template <int nr>
static inline void store_pixel(const GemmTile& t, const VectorEpilogue& v, const int32_t* acc,
                               int row) {
  const Epilogue& e = *t.epilogue;
  uint8_t* y = t.y + row * t.y_pitch;
  const uint8_t* residual = t.residual + row * t.residual_pitch;
  __m512i q[nr];
#pragma GCC unroll 4
  for (int j = 0; j < nr; ++j) {
    const __m512i sum = _mm512_loadu_si512(acc + j * kLanes);
    const __m512 scale = _mm512_loadu_ps(t.scale + j * kLanes);
    if (e.float_output) {
      store_floats(t, sum, j, reinterpret_cast<float*>(y));
    } else if (e.has_residual) {
      const __mmask16 few = block_mask(t.channels, j);
      q[j] = steps_of_sum(v, sum, scale, residual_of(v, residual + j * kLanes, few));
    } else {
      q[j] = steps(v, sum, scale);
    }
  }
  if (e.float_output) return;
  store_bytes<nr>(t, v, q, y);
}

// n_pixels of nr * 16 accumulators.
template <int nr>
[[gnu::noinline]] static void store_pixels(const GemmTile& t, const int32_t* acc, int n_pixels) {
  const VectorEpilogue v(*t.epilogue);
  for (int i = 0; i < n_pixels; ++i) store_pixel<nr>(t, v, acc + i * nr * kLanes, i);
}

// Whether bytes are all that comes of accumulators; a table is looked up afterwards.
static inline bool packs_bytes(const Epilogue& e) { return !e.float_output && !e.has_residual; }

}  // namespace
}  // namespace qtool
