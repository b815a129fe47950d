// How to move the 16-bit lanes that a mask names to the front of a vector of n, for a byte shuffle.
#pragma once

#include <cstdint>

namespace qtool {
namespace {

template <int n>
struct Compress {
  alignas(16) uint8_t order[1 << n][2 * n];

  constexpr Compress() : order() {
    for (int mask = 0; mask < 1 << n; ++mask) {
      int kept = 0;
      for (int lane = 0; lane < n; ++lane) {
        if ((mask >> lane & 1) == 0) continue;
        order[mask][2 * kept] = static_cast<uint8_t>(2 * lane);
        order[mask][2 * kept + 1] = static_cast<uint8_t>(2 * lane + 1);
        ++kept;
      }
    }
  }
};

}  // namespace
}  // namespace qtool
