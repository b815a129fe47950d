#include <immintrin.h>

#include "gemm_s16/tile.h"

namespace qtool {
namespace {

struct Pairs {
  using Vector = __m256i;
  static constexpr int kLanes = 8;
  static Vector zero() { return _mm256_setzero_si256(); }
  static Vector widened(const int8_t* from) {
    return _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
  }
  static Vector broadcast(int32_t pair) { return _mm256_set1_epi32(pair); }
  static Vector add_products(Vector acc, Vector a, Vector b) {
    return _mm256_add_epi32(acc, _mm256_madd_epi16(a, b));
  }
  static void store(int32_t* to, Vector v) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), v);
  }
};

}  // namespace

const GemmS16Variant gemm_s16__avx2 = {
    Isa::kAvx2,         TilesS16<Pairs, 4>::run, finish,
    depthwise<uint8_t>, depthwise<uint16_t>,     depthwise<int16_t>};

}  // namespace qtool
