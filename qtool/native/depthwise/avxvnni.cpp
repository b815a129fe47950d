// Depthwise with the 256-bit vpdpbusd of processors without AVX-512.
#include "depthwise/avx2_line.h"

namespace qtool {
namespace {

struct Quads {
  static constexpr int kWeightBytes = 32;

  static __m256i add(__m256i sum, __m256i taps, const int8_t* w) {
    const __m256i weights = _mm256_load_si256(reinterpret_cast<const __m256i*>(w));
    return _mm256_dpbusd_avx_epi32(sum, taps, weights);
  }
};

using Line = Narrow<Quads>;

}  // namespace

const DepthwiseKernels kDepthwiseAvxVnni = {kNarrowChannels,
                                            false,
                                            {},
                                            {depthwise_line<Line, 1>, depthwise_line<Line, 2>,
                                             depthwise_line<Line, 3>, depthwise_line<Line, 4>}};

}  // namespace qtool
