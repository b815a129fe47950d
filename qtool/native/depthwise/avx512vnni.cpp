// Depthwise with vpdpbusd: 64 channels in 512-bit vectors, 32 in 256-bit ones.
#include "depthwise/line.h"
#include "gemm/avx512_epilogue.h"

namespace qtool {
namespace {

// One output with a residual or of float: sums in the order of channels, then as matrix products
// do.
template <int blocks>
[[gnu::noinline]] void store_any(const DepthwiseLine& l, const int32_t* interleaved,
                                 int32_t output) noexcept {
  constexpr int kLanesOfVector = blocks * 4;
  alignas(64) int32_t sums[blocks * kLanes];
  for (int j = 0; j < kVectors; ++j) {
    for (int lane = 0; lane < kLanesOfVector; ++lane) {
      sums[channel_of(j, lane)] = interleaved[j * kLanesOfVector + lane];
    }
  }
  const GemmTile t = tile_of(l);
  store_pixel<blocks>(t, VectorEpilogue(*l.epilogue), sums, output);
}

struct Wide {
  using Vector = __m512i;
  static constexpr int kVectorLanes = 16, kWeightBytes = 64;

  static Vector load(const void* p) { return _mm512_loadu_si512(p); }

  static Vector dot(Vector sum, Vector taps, const int8_t* w) {
    return _mm512_dpbusd_epi32(sum, taps, _mm512_load_si512(w));
  }

  static void interleave(Vector* t) {
    const Vector ab_low = _mm512_unpacklo_epi8(t[0], t[1]);
    const Vector ab_high = _mm512_unpackhi_epi8(t[0], t[1]);
    const Vector cd_low = _mm512_unpacklo_epi8(t[2], t[3]);
    const Vector cd_high = _mm512_unpackhi_epi8(t[2], t[3]);
    t[0] = _mm512_unpacklo_epi16(ab_low, cd_low);
    t[1] = _mm512_unpackhi_epi16(ab_low, cd_low);
    t[2] = _mm512_unpacklo_epi16(ab_high, cd_high);
    t[3] = _mm512_unpackhi_epi16(ab_high, cd_high);
  }

  template <bool plain>
  struct Store {
    explicit Store(const DepthwiseLine& l)
        : v(*l.epilogue), mask(first_channels(l.channels)), by_bytes(packs_bytes(*l.epilogue)) {}

    [[gnu::always_inline]] void operator()(const DepthwiseLine& l, const Vector* sums,
                                           int32_t output) const {
      if (!plain && !by_bytes) {
        alignas(64) int32_t memory[kVectors * kVectorLanes];
        for (int j = 0; j < kVectors; ++j) {
          _mm512_store_si512(memory + j * kVectorLanes, sums[j]);
        }
        store_any<4>(l, memory, output);
        return;
      }
      Vector q[kVectors];
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j) {
        q[j] = steps<plain>(v, sums[j], _mm512_loadu_ps(l.scale + j * kVectorLanes));
      }
      // Packing undoes the interleaving.
      Vector low = _mm512_packs_epi32(q[0], q[1]), high = _mm512_packs_epi32(q[2], q[3]);
      if (!plain) {
        low = _mm512_adds_epi16(low, v.zero_point), high = _mm512_adds_epi16(high, v.zero_point);
      }
      Vector bytes = _mm512_packus_epi16(low, high);
      if (!plain) bytes = _mm512_max_epu8(_mm512_min_epu8(bytes, v.high), v.low);
      _mm512_mask_storeu_epi8(l.y + output * l.y_pitch, mask, bytes);
    }

    VectorEpilogue v;
    __mmask64 mask;
    bool by_bytes;
  };
};

struct Narrow {
  using Vector = __m256i;
  static constexpr int kVectorLanes = 8, kWeightBytes = 32;

  static Vector load(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }

  static Vector dot(Vector sum, Vector taps, const int8_t* w) {
    return _mm256_dpbusd_epi32(sum, taps, load(w));
  }

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
        : mask(__mmask32(first_channels(l.channels))), by_bytes(packs_bytes(*l.epilogue)) {
      const Epilogue& e = *l.epilogue;
      y_top = _mm256_set1_ps(float(e.y_max - e.y_zero_point));
      zero_point = _mm256_set1_epi16(int16_t(e.y_zero_point));
      low = _mm256_set1_epi8(int8_t(e.y_min));
      high = _mm256_set1_epi8(int8_t(e.y_max));
    }

    [[gnu::always_inline]] void operator()(const DepthwiseLine& l, const Vector* sums,
                                           int32_t output) const {
      if (!plain && !by_bytes) {
        alignas(64) int32_t memory[kVectors * kVectorLanes];
        for (int j = 0; j < kVectors; ++j) {
          _mm256_store_si256(reinterpret_cast<__m256i*>(memory + j * kVectorLanes), sums[j]);
        }
        store_any<2>(l, memory, output);
        return;
      }
      Vector q[kVectors];
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j) {
        const __m256 real =
            _mm256_mul_ps(_mm256_cvtepi32_ps(sums[j]), _mm256_loadu_ps(l.scale + j * kVectorLanes));
        q[j] = _mm256_cvtps_epi32(plain ? real : _mm256_min_ps(real, y_top));
      }
      Vector first = _mm256_packs_epi32(q[0], q[1]), second = _mm256_packs_epi32(q[2], q[3]);
      if (!plain) {
        first = _mm256_adds_epi16(first, zero_point);
        second = _mm256_adds_epi16(second, zero_point);
      }
      Vector bytes = _mm256_packus_epi16(first, second);
      if (!plain) bytes = _mm256_max_epu8(_mm256_min_epu8(bytes, high), low);
      _mm256_mask_storeu_epi8(l.y + output * l.y_pitch, mask, bytes);
    }

    __mmask32 mask;
    bool by_bytes;
    __m256 y_top;
    __m256i zero_point, low, high;
  };
};

}  // namespace

const DepthwiseKernels kDepthwiseAvx512Vnni = {
    kWideChannels,
    false,
    {depthwise_line<Wide, 1>, depthwise_line<Wide, 2>, depthwise_line<Wide, 3>,
     depthwise_line<Wide, 4>},
    {depthwise_line<Narrow, 1>, depthwise_line<Narrow, 2>, depthwise_line<Narrow, 3>,
     depthwise_line<Narrow, 4>}};

}  // namespace qtool
