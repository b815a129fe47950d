// Tiles of 6 pixels x 16 channels with the 256-bit vpdpbusd of processors without AVX-512.
#include "gemm/avx2_tile.h"

namespace qtool {
namespace {

struct Quads {
  static __m256i add(__m256i sum, __m256i x, __m256i w) {
    return _mm256_dpbusd_avx_epi32(sum, x, w);
  }
};

}  // namespace

const GemmTileKernels kGemmAvxVnni = {false,
                                      {6},
                                      {{tile<Quads, 1>, tile<Quads, 2>, tile<Quads, 3>,
                                        tile<Quads, 4>, tile<Quads, 5>, tile<Quads, 6>}}};

}  // namespace qtool
