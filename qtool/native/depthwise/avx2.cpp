// Depthwise with vpmaddwd: taps widened to 16 bits, 0 and 2 together, then 1 and 3.
#include "depthwise/avx2_line.h"

namespace qtool {
namespace {

struct Pairs {
  static constexpr int kWeightBytes = 64;

  static __m256i add(__m256i sum, __m256i taps, const int8_t* w) {
    const auto* weights = reinterpret_cast<const __m256i*>(w);
    const __m256i even = _mm256_and_si256(taps, _mm256_set1_epi16(255));
    const __m256i odd = _mm256_srli_epi16(taps, 8);
    sum = _mm256_add_epi32(sum, _mm256_madd_epi16(even, _mm256_load_si256(weights)));
    return _mm256_add_epi32(sum, _mm256_madd_epi16(odd, _mm256_load_si256(weights + 1)));
  }
};

using Line = Narrow<Pairs>;

}  // namespace

const DepthwiseKernels kDepthwiseAvx2 = {kNarrowChannels,
                                         true,
                                         {},
                                         {depthwise_line<Line, 1>, depthwise_line<Line, 2>,
                                          depthwise_line<Line, 3>, depthwise_line<Line, 4>}};

}  // namespace qtool
