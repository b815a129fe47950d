// Tiles with vpdpbusd: 6 pixels x 64 channels, 8 x 48, 8 x 32, 8 x 16.
#include <cstring>

#include "gemm/avx512_epilogue.h"

namespace qtool {
namespace {

static inline __m512i broadcast_quad(const uint8_t* x) {
  int32_t quad;
  std::memcpy(&quad, x, sizeof(quad));
  return _mm512_set1_epi32(quad);
}

// Into the second cache. Beyond what memory there is it does nothing.
static inline void fetch_lines(uintptr_t at) {
  _mm_prefetch(reinterpret_cast<const char*>(at), _MM_HINT_T1);
  _mm_prefetch(reinterpret_cast<const char*>(at + 64), _MM_HINT_T1);
}

constexpr int kUnrolled = 4;  // quads

// acc += x[i][k .. k + 3] * w
template <int nr, int mr>
[[gnu::always_inline]] static inline void multiply_quad(const uint8_t* const* x, int64_t k,
                                                        const int8_t* w, __m512i (*acc)[nr]) {
  __m512i wk[nr];
#pragma GCC unroll 4
  for (int j = 0; j < nr; ++j) wk[j] = _mm512_load_si512(w + j * 64);
#pragma GCC unroll 14
  for (int i = 0; i < mr; ++i) {
    const __m512i xk = broadcast_quad(x[i] + k);
#pragma GCC unroll 4
    for (int j = 0; j < nr; ++j) acc[i][j] = _mm512_dpbusd_epi32(acc[i][j], xk, wk[j]);
  }
}

// Full blocks of channels, bounded, of a zero point of 0 and the range of a byte: fast.
template <int nr, int mr, bool fast>
[[gnu::always_inline]] static inline void store_tile(const GemmTile& t, __m512i (*acc)[nr]) {
  const VectorEpilogue v(*t.epilogue);
  const bool adds = t.epilogue->has_residual;
  __m512 scale[nr];
#pragma GCC unroll 4
  for (int j = 0; j < nr; ++j) scale[j] = _mm512_loadu_ps(t.scale + j * kLanes);
  if (adds) {
#pragma GCC unroll 14
    for (int i = 0; i < mr; ++i) {
      const uint8_t* residual = t.residual + i * t.residual_pitch;
#pragma GCC unroll 4
      for (int j = 0; j < nr; ++j) {
        const uint8_t* r = residual + j * kLanes;
        const __m512 part = fast ? residual_of(v, r) : residual_of(v, r, block_mask(t.channels, j));
        acc[i][j] = steps_of_sum<fast>(v, acc[i][j], scale[j], part);
      }
      store_bytes<nr, fast>(t, v, acc[i], t.y + i * t.y_pitch);
    }
    return;
  }
#pragma GCC unroll 14
  for (int i = 0; i < mr; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < nr; ++j) acc[i][j] = steps<fast>(v, acc[i][j], scale[j]);
    store_bytes<nr, fast>(t, v, acc[i], t.y + i * t.y_pitch);
  }
}

template <int nr, int mr>
void tile(const GemmTile& t) noexcept {
  __m512i acc[mr][nr];
  const uint8_t* x[mr];
#pragma GCC unroll 14
  for (int i = 0; i < mr; ++i) {
    x[i] = t.x[i];
#pragma GCC unroll 4
    for (int j = 0; j < nr; ++j) acc[i][j] = _mm512_loadu_si512(t.bias + j * kLanes);
  }
  if (t.epilogue->has_residual) {  // rows lie too far apart for the processor to foresee them
#pragma GCC unroll 14
    for (int i = 0; i < mr; ++i) {
      const uint8_t* residual = t.residual + i * t.residual_pitch;
      _mm_prefetch(reinterpret_cast<const char*>(residual), _MM_HINT_T0);
    }
  }
  const int8_t* w = t.w;
  uintptr_t next = t.next;
  const uintptr_t next_step = t.next_step;
  for (int32_t s = 0; s < t.n_segments; ++s) {
    const int64_t begin = t.offsets[s], end = begin + int64_t{t.quads} * 4;
    int64_t k = begin;
    // Few integer instructions to a product: they take turns at the same ports.
    for (; k + 4 * kUnrolled <= end; k += 4 * kUnrolled, w += kUnrolled * nr * 64) {
      fetch_lines(next);
      next += next_step;
#pragma GCC unroll 4
      for (int u = 0; u < kUnrolled; ++u) multiply_quad<nr, mr>(x, k + 4 * u, w + u * nr * 64, acc);
    }
    for (; k < end; k += 4, w += nr * 64) multiply_quad<nr, mr>(x, k, w, acc);
  }
  if (t.epilogue->float_output) {
    alignas(64) int32_t sums[mr * nr * kLanes];
#pragma GCC unroll 14
    for (int i = 0; i < mr; ++i) {
#pragma GCC unroll 4
      for (int j = 0; j < nr; ++j) _mm512_store_si512(sums + (i * nr + j) * kLanes, acc[i][j]);
    }
    store_pixels<nr>(t, sums, mr);
    return;
  }
  const bool full = t.channels == nr * kLanes;
  if (full && t.bounded && packs_plain(*t.epilogue)) return store_tile<nr, mr, true>(t, acc);
  store_tile<nr, mr, false>(t, acc);
}

}  // namespace

const GemmTileKernels kGemmAvx512Vnni = {
    false,
    {8, 8, 8, 6},
    {{tile<1, 1>, tile<1, 2>, tile<1, 3>, tile<1, 4>, tile<1, 5>, tile<1, 6>, tile<1, 7>,
      tile<1, 8>},
     {tile<2, 1>, tile<2, 2>, tile<2, 3>, tile<2, 4>, tile<2, 5>, tile<2, 6>, tile<2, 7>,
      tile<2, 8>},
     {tile<3, 1>, tile<3, 2>, tile<3, 3>, tile<3, 4>, tile<3, 5>, tile<3, 6>, tile<3, 7>,
      tile<3, 8>},
     {tile<4, 1>, tile<4, 2>, tile<4, 3>, tile<4, 4>, tile<4, 5>, tile<4, 6>}}};

}  // namespace qtool
