// Tiles of 5 pixels x 16 channels with vpmaddubsw, which saturates sums of two products at 16 bits:
// packing (conv/pairs.h) moves what could pass them into extra quads, so the result is exact.
#include "gemm/avx2_tile.h"

namespace qtool {
namespace {

struct Pairs {
  static __m256i add(__m256i sum, __m256i x, __m256i w) {
    const __m256i pairs = _mm256_maddubs_epi16(x, w);
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
  }
};

}  // namespace

const GemmTileKernels kGemmAvx2 = {
    true, {5}, {{tile<Pairs, 1>, tile<Pairs, 2>, tile<Pairs, 3>, tile<Pairs, 4>, tile<Pairs, 5>}}};

}  // namespace qtool
