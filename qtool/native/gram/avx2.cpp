#include <immintrin.h>

#include "gram/kernels.h"

namespace qtool {
namespace {

constexpr size_t kRows = 4;  // of h at a time: 8 sums and 3 operands fit the 16 registers

void add_rows(const double* a, const double* b, size_t n, double* h) noexcept {
  __m256d low[kRows], high[kRows];
  for (size_t i = 0; i < kRows; ++i) {
    low[i] = _mm256_loadu_pd(h + i * kTile);
    high[i] = _mm256_loadu_pd(h + i * kTile + 4);
  }
  for (size_t p = 0; p < n; ++p, a += kTile, b += kTile) {
    const __m256d left = _mm256_loadu_pd(b), right = _mm256_loadu_pd(b + 4);
    for (size_t i = 0; i < kRows; ++i) {
      const __m256d x = _mm256_broadcast_sd(a + i);
      low[i] = _mm256_fmadd_pd(x, left, low[i]);
      high[i] = _mm256_fmadd_pd(x, right, high[i]);
    }
  }
  for (size_t i = 0; i < kRows; ++i) {
    _mm256_storeu_pd(h + i * kTile, low[i]);
    _mm256_storeu_pd(h + i * kTile + 4, high[i]);
  }
}

}  // namespace

void gram_tile__avx2(const double* a, const double* b, size_t n, double* h) noexcept {
  add_rows(a, b, n, h);
  add_rows(a + kRows, b, n, h + kRows * kTile);
}

}  // namespace qtool
