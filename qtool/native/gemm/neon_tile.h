// Tiles of mr pixels x 16 channels in vectors of 4. For files compiled for NEON only; everything
// here has internal linkage.
#pragma once

#include "gemm/neon_dot.h"
#include "gemm/neon_epilogue.h"

namespace qtool {
namespace {

template <class Dot, int lane, int mr>
[[gnu::always_inline]] static inline void add_quad(typename Dot::Sum (&acc)[mr][kQuarters],
                                                   const typename Dot::X (&x)[mr],
                                                   const int8_t* w) {
#pragma GCC unroll 4
  for (int j = 0; j < kQuarters; ++j) {
    const int8x16_t wj = vld1q_s8(w + 16 * j);
#pragma GCC unroll 8
    for (int i = 0; i < mr; ++i) acc[i][j] = Dot::template add<lane>(acc[i][j], wj, x[i]);
  }
}

// Four quads at a time, each a lane of what is loaded of x; then those that are left over.
template <class Dot, int mr>
[[gnu::always_inline]] static inline const int8_t* add_segment(
    typename Dot::Sum (&acc)[mr][kQuarters], const uint8_t* const (&x)[mr], int64_t at,
    int32_t quads, const int8_t* w) {
  typename Dot::X taken[mr];
  for (; quads >= 4; quads -= 4, at += 16, w += 256) {
#pragma GCC unroll 8
    for (int i = 0; i < mr; ++i) taken[i] = Dot::taken(vld1q_u8(x[i] + at));
    add_quad<Dot, 0, mr>(acc, taken, w);
    add_quad<Dot, 1, mr>(acc, taken, w + 64);
    add_quad<Dot, 2, mr>(acc, taken, w + 128);
    add_quad<Dot, 3, mr>(acc, taken, w + 192);
  }
  for (; quads > 0; --quads, at += 4, w += 64) {
#pragma GCC unroll 8
    for (int i = 0; i < mr; ++i) {
      uint32_t quad;
      std::memcpy(&quad, x[i] + at, sizeof(quad));
      taken[i] = Dot::taken(vreinterpretq_u8_u32(vdupq_n_u32(quad)));
    }
    add_quad<Dot, 0, mr>(acc, taken, w);
  }
  return w;
}

template <class Dot, int mr>
void tile(const GemmTile& t) noexcept {
  typename Dot::Sum acc[mr][kQuarters];
  const uint8_t* x[mr];
#pragma GCC unroll 8
  for (int i = 0; i < mr; ++i) {
    x[i] = t.x[i];
#pragma GCC unroll 4
    for (int j = 0; j < kQuarters; ++j) acc[i][j] = Dot::start(vld1q_s32(t.bias + 4 * j));
  }
  const int8_t* w = t.w;
  for (int32_t s = 0; s < t.n_segments; ++s) {
    w = add_segment<Dot, mr>(acc, x, t.offsets[s], t.quads, w);
  }
  const VectorEpilogue v(*t.epilogue);
#pragma GCC unroll 8
  for (int i = 0; i < mr; ++i) {
    int32x4_t sums[kQuarters];
#pragma GCC unroll 4
    for (int j = 0; j < kQuarters; ++j) sums[j] = Dot::finish(acc[i][j]);
    store_block(t, v, sums, 0, i);
  }
}

}  // namespace
}  // namespace qtool
