#include <arm_neon.h>

#include "gram/kernels.h"

namespace qtool {
namespace {

constexpr size_t kRows = 4;     // of h at a time: 16 sums of the 32 registers
constexpr size_t kVectors = 4;  // of two doubles in a row of h

void add_rows(const double* a, const double* b, size_t n, double* h) noexcept {
  float64x2_t sums[kRows][kVectors];
  for (size_t i = 0; i < kRows; ++i) {
    for (size_t v = 0; v < kVectors; ++v) sums[i][v] = vld1q_f64(h + i * kTile + 2 * v);
  }
  for (size_t p = 0; p < n; ++p, a += kTile, b += kTile) {
    float64x2_t row[kVectors];
    for (size_t v = 0; v < kVectors; ++v) row[v] = vld1q_f64(b + 2 * v);
    for (size_t i = 0; i < kRows; ++i) {
      for (size_t v = 0; v < kVectors; ++v) sums[i][v] = vfmaq_n_f64(sums[i][v], row[v], a[i]);
    }
  }
  for (size_t i = 0; i < kRows; ++i) {
    for (size_t v = 0; v < kVectors; ++v) vst1q_f64(h + i * kTile + 2 * v, sums[i][v]);
  }
}

}  // namespace

void gram_tile__neon(const double* a, const double* b, size_t n, double* h) noexcept {
  add_rows(a, b, n, h);
  add_rows(a + kRows, b, n, h + kRows * kTile);
}

}  // namespace qtool
