#include <immintrin.h>

#include "compress/kernels.h"

namespace qtool {

void add_scaled__avx2(double* y, const double* x, double a, size_t n) noexcept {
  const __m256d factor = _mm256_set1_pd(a);
  size_t i = 0;
  for (; i + 8 <= n; i += 8) {
    const __m256d low = _mm256_mul_pd(factor, _mm256_loadu_pd(x + i));
    const __m256d high = _mm256_mul_pd(factor, _mm256_loadu_pd(x + i + 4));
    _mm256_storeu_pd(y + i, _mm256_add_pd(_mm256_loadu_pd(y + i), low));
    _mm256_storeu_pd(y + i + 4, _mm256_add_pd(_mm256_loadu_pd(y + i + 4), high));
  }
  for (; i < n; ++i) y[i] += a * x[i];
}

}  // namespace qtool
