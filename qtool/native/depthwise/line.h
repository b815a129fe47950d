// The loop over a line of outputs, for vectors V of any instruction set. Only for files compiled
// for that one; everything here has internal linkage.
#pragma once

#include "depthwise/depthwise.h"
#include "gemm/tile.h"

namespace qtool {
namespace {

// Where matrix products store the outputs of the line, from sums in the order of channels.
[[maybe_unused]] static GemmTile tile_of(const DepthwiseLine& l) noexcept {
  GemmTile t{};
  t.scale = reinterpret_cast<const float*>(l.plain + kWideChannels);
  t.float_bias = l.has_float_bias ? t.scale + kWideChannels : nullptr;
  t.epilogue = l.epilogue;
  t.channels = l.channels;
  t.y = l.y;
  t.y_pitch = l.y_pitch;
  t.residual = l.residual;
  t.residual_pitch = l.residual_pitch;
  return t;
}

// V has Vector, kVectorLanes, kWeightBytes of a vector, load, interleave, dot, and Store<plain>,
// which stores an output's sums.
template <class V, int run, int quads, bool plain>
static void depthwise_outputs(const DepthwiseLine& l) noexcept {
  using Vector = typename V::Vector;
  const typename V::template Store<plain> store(l);
  const int32_t n = l.n, advance = l.advance, n_quads = quads == 0 ? l.n_quads : quads;
  const int64_t step = l.step, at = l.at;
  const int32_t* const bias = l.bias;
  for (int32_t q = 0; q < n; q += advance) {
    const int32_t first = q < n - advance ? q : n - advance;  // the last ones may be made again
    const int64_t x = at + first * step;
    Vector sums[run][kVectors];
#pragma GCC unroll 4
    for (int r = 0; r < run; ++r) {
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j) sums[r][j] = V::load(bias + j * V::kVectorLanes);
    }
    const int8_t* w = l.w;
    const uint8_t* const* from = l.taps;
#pragma GCC unroll 3
    for (int32_t quad = 0; quad < n_quads; ++quad, from += 4) {
      Vector taps[kVectors] = {V::load(from[0] + x), V::load(from[1] + x), V::load(from[2] + x),
                               V::load(from[3] + x)};
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
    for (int r = 0; r < run; ++r) store(l, sums[r], first + r);
  }
}

template <class V, int run>
void depthwise_line(const DepthwiseLine& l) noexcept {
  const bool plain = stores_plain_bytes(l);
  if (l.n_quads == 3) {  // 3 x 3
    plain ? depthwise_outputs<V, run, 3, true>(l) : depthwise_outputs<V, run, 3, false>(l);
  } else {
    plain ? depthwise_outputs<V, run, 0, true>(l) : depthwise_outputs<V, run, 0, false>(l);
  }
}

}  // namespace
}  // namespace qtool
