#include "gram/kernels.h"

namespace qtool {

void gram_tile__scalar(const double* a, const double* b, size_t n, double* h) noexcept {
  for (size_t p = 0; p < n; ++p) {
    for (size_t i = 0; i < kTile; ++i) {
      for (size_t j = 0; j < kTile; ++j) h[i * kTile + j] += a[p * kTile + i] * b[p * kTile + j];
    }
  }
}

}  // namespace qtool
