#include "histogram/one.h"

namespace qtool {

void histogram_scan__scalar(const float* x, size_t n, Extremes& extremes) noexcept {
  for (size_t i = 0; i < n; ++i) scan_one(x[i], extremes);
}

size_t histogram_bin__scalar(const float* x, size_t n, float per_width, uint16_t* bins) noexcept {
  return bin_rest(x, n, per_width, bins);
}

}  // namespace qtool
