// Depthwise for 32 channels in vectors of 8. For files compiled for AVX2 only; everything here has
// internal linkage.
#pragma once

#include "depthwise/line.h"
#include "gemm/avx2_epilogue.h"

namespace qtool {
namespace {

// Sums in the order of channels, then as matrix products do.
[[gnu::noinline]] static void store_any(const DepthwiseLine& l, const int32_t* interleaved,
                                        int32_t output) noexcept {
  constexpr int kVectorLanes = 8;
  alignas(32) int32_t sums[kNarrowChannels];
  for (int j = 0; j < kVectors; ++j) {
    for (int lane = 0; lane < kVectorLanes; ++lane) {
      sums[channel_of(j, lane)] = interleaved[j * kVectorLanes + lane];
    }
  }
  const GemmTile t = tile_of(l);
  const VectorEpilogue v(*l.epilogue);
  for (int first = 0; first < l.channels; first += kLanes) {
    const auto* p = reinterpret_cast<const __m256i*>(sums + first);
    store_block(t, v, _mm256_load_si256(p), _mm256_load_si256(p + 1), first, output);
  }
}

// Dot: kWeightBytes of a vector, and add(sum, taps, w).
template <class Dot>
struct Narrow {
  using Vector = __m256i;
  static constexpr int kVectorLanes = 8, kWeightBytes = Dot::kWeightBytes;

  static Vector load(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }

  static Vector dot(Vector sum, Vector taps, const int8_t* w) { return Dot::add(sum, taps, w); }

  static void interleave(Vector* t) {
    const Vector ab_low = _mm256_unpacklo_epi8(t[0], t[1]);
    const Vector ab_high = _mm256_unpackhi_epi8(t[0], t[1]);
    const Vector cd_low = _mm256_unpacklo_epi8(t[2], t[3]);
    const Vector cd_high = _mm256_unpackhi_epi8(t[2], t[3]);
    t[0] = _mm256_unpacklo_epi16(ab_low, cd_low);
    t[1] = _mm256_unpackhi_epi16(ab_low, cd_low);
    t[2] = _mm256_unpacklo_epi16(ab_high, cd_high);
    t[3] = _mm256_unpackhi_epi16(ab_high, cd_high);
  }

  template <bool plain>
  struct Store {
    explicit Store(const DepthwiseLine& l)
        : v(*l.epilogue), by_bytes(!l.epilogue->float_output && !l.epilogue->has_residual) {}

    [[gnu::always_inline]] void operator()(const DepthwiseLine& l, const Vector* sums,
                                           int32_t output) const {
      if (!plain && !by_bytes) {
        alignas(32) int32_t memory[kNarrowChannels];
        for (int j = 0; j < kVectors; ++j) {
          _mm256_store_si256(reinterpret_cast<__m256i*>(memory + j * kVectorLanes), sums[j]);
        }
        store_any(l, memory, output);
        return;
      }
      Vector q[kVectors];
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j) {
        q[j] = steps(v, sums[j], _mm256_loadu_ps(l.scale + j * kVectorLanes));
      }
      const Vector bytes = pack_steps(v, q[0], q[1], q[2], q[3]);  // undoes the interleaving
      uint8_t* y = l.y + output * l.y_pitch;
      if (l.channels >= kNarrowChannels) {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(y), bytes);
        return;
      }
      alignas(32) uint8_t values[kNarrowChannels];
      _mm256_store_si256(reinterpret_cast<__m256i*>(values), bytes);
      std::memcpy(y, values, size_t(l.channels));
    }

    VectorEpilogue v;
    bool by_bytes;
  };
};

}  // namespace
}  // namespace qtool
