// The loop over a line of outputs, for vectors V of any instruction set. Only for files compiled
// for that one; everything here has internal linkage.
#pragma once

#include "depthwise/depthwise.h"

namespace qtool {
namespace {

// V: Vector; kBytes of a pixel's part; load; dot(sum, quad, w); interleave; kWeightBytes of a
// vector; Epilogue with plain(const DepthwiseLine&, sums, y) and full(..., output).
template <class V, int run>
void depthwise_line(const DepthwiseLine& l) noexcept {
  using Vector = typename V::Vector;
  const typename V::Store store(l);
  for (int32_t q = 0; q < l.n; q += run) {
    const int32_t first = q < l.n - run ? q : l.n - run;  // the last run may overlap
    const uint8_t* x = l.x + first * l.step;
    Vector sums[run][kVectors];
#pragma GCC unroll 4
    for (int r = 0; r < run; ++r) {
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j) sums[r][j] = V::load(l.bias + j * V::kVectorLanes);
    }
    const int8_t* w = l.w;
    const int32_t* offsets = l.offsets;
    for (int32_t quad = 0; quad < l.n_quads; ++quad, offsets += 4) {
      Vector taps[kVectors] = {V::load(x + offsets[0]), V::load(x + offsets[1]),
                               V::load(x + offsets[2]), V::load(x + offsets[3])};
      V::interleave(taps);
#pragma GCC unroll 4
      for (int r = 0; r < run; ++r) {
#pragma GCC unroll 4
        for (int j = 0; j < kVectors; ++j, w += V::kWeightBytes) {
          sums[r][j] = V::dot(sums[r][j], taps[j], w);
        }
      }
    }
#pragma GCC unroll 4
    for (int r = 0; r < run; ++r) {
      if (first + r >= q) store(l, sums[r], first + r);
    }
  }
}

}  // namespace
}  // namespace qtool
