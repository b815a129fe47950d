#include <immintrin.h>

#include "gram/kernels.h"

namespace qtool {

void gram_tile__avx512(const double* a, const double* b, size_t n, double* h) noexcept {
  __m512d sums[kTile];
  for (size_t i = 0; i < kTile; ++i) sums[i] = _mm512_loadu_pd(h + i * kTile);
  for (size_t p = 0; p < n; ++p, a += kTile, b += kTile) {
    const __m512d row = _mm512_loadu_pd(b);
    for (size_t i = 0; i < kTile; ++i) {
      sums[i] = _mm512_fmadd_pd(_mm512_set1_pd(a[i]), row, sums[i]);
    }
  }
  for (size_t i = 0; i < kTile; ++i) _mm512_storeu_pd(h + i * kTile, sums[i]);
}

}  // namespace qtool
