// Tiles of mr pixels x 16 channels in vectors of 8. For files compiled for AVX2 only; everything
// here has internal linkage.
#pragma once

#include "gemm/avx2_epilogue.h"

namespace qtool {
namespace {

static inline __m256i broadcast_quad(const uint8_t* x) {
  int32_t quad;
  std::memcpy(&quad, x, sizeof(quad));
  return _mm256_set1_epi32(quad);
}

template <class Dot, int mr>
[[gnu::always_inline]] static inline void add_quad(__m256i (&acc)[mr][2], const uint8_t* const* x,
                                                   int64_t at, const int8_t* w) {
  const __m256i low = _mm256_load_si256(reinterpret_cast<const __m256i*>(w));
  const __m256i high = _mm256_load_si256(reinterpret_cast<const __m256i*>(w + 32));
#pragma GCC unroll 8
  for (int i = 0; i < mr; ++i) {
    const __m256i quad = broadcast_quad(x[i] + at);
    acc[i][0] = Dot::add(acc[i][0], quad, low);
    acc[i][1] = Dot::add(acc[i][1], quad, high);
  }
}

template <class Dot, int mr>
void tile(const GemmTile& t) noexcept {
  __m256i acc[mr][2];
  const uint8_t* x[mr];
#pragma GCC unroll 8
  for (int i = 0; i < mr; ++i) {
    x[i] = t.x[i];
    acc[i][0] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(t.bias));
    acc[i][1] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(t.bias + 8));
  }
  const int8_t* w = t.w;
  for (int32_t s = 0; s < t.n_segments; ++s) {
    const int64_t begin = t.offsets[s], end = begin + int64_t{t.quads} * 4;
    for (int64_t k = begin; k < end; k += 4, w += 64) add_quad<Dot, mr>(acc, x, k, w);
  }
  w = t.extra_w;
  for (int32_t i = 0; i < t.n_extra; ++i, w += 64) add_quad<Dot, mr>(acc, x, t.extra_offsets[i], w);

  const VectorEpilogue v(*t.epilogue);
#pragma GCC unroll 8
  for (int i = 0; i < mr; ++i) store_block(t, v, acc[i][0], acc[i][1], 0, i);
}

}  // namespace
}  // namespace qtool
