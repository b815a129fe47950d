#include "histogram/one.h"

namespace qtool {

size_t histogram_bin__scalar(const float* x, size_t n, float per_width, Extremes& extremes,
                             uint16_t* bins) noexcept {
  return bin_rest(x, n, per_width, extremes, bins);
}

}  // namespace qtool
