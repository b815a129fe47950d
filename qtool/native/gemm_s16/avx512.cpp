#include <immintrin.h>

#include "gemm_s16/tile.h"

namespace qtool {
namespace {

struct Pairs {
  using Vector = __m512i;
  static constexpr int kLanes = 16;
  static Vector zero() { return _mm512_setzero_si512(); }
  static Vector widened(const int8_t* from) {
    return _mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
  }
  static Vector broadcast(int32_t pair) { return _mm512_set1_epi32(pair); }
  static Vector add_products(Vector acc, Vector a, Vector b) {
    return _mm512_add_epi32(acc, _mm512_madd_epi16(a, b));
  }
  static void store(int32_t* to, Vector v) { _mm512_storeu_si512(to, v); }
};

}  // namespace

const GemmS16Variant gemm_s16__avx512 = {
    Isa::kAvx512,       TilesS16<Pairs, 8>::run, finish,
    depthwise<uint8_t>, depthwise<uint16_t>,     depthwise<int16_t>};

}  // namespace qtool
